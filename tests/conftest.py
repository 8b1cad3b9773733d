"""What many tests need: tiny models and a folder of tones, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # no test uses the network
os.environ["SOTTOVOCE_KERNELS"] = "onednn"  # no timing; the same numbers whatever else the machine is doing

from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.hub.pretrained import Pretrained, save_pretrained
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher


@pytest.fixture(autouse=True)
def _quiet_torch() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def tiny_shape(depth: int = 3) -> EncoderConfig:
    """A HuBERT-like encoder of some 60 thousand parameters."""
    sizes = zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)
    return EncoderConfig(
        frontend=FrontendConfig(tuple(ConvConfig(16, kernel, stride) for kernel, stride in sizes)),
        dim=32,
        position=PositionConfig(kernel=16, groups=4),
        layers=(LayerConfig(4, 8, 64),) * depth,
    )


def one_teacher(encoder: Encoder | None = None) -> Teachers:
    """A run's teachers when `encoder`, a random one by default, is the only one."""
    encoder = encoder or Encoder(tiny_shape()).reset_parameters()
    found = Pretrained(encoder.eval(), encoder.config, "hubert", False, "here")
    return Teachers({"teacher": EncoderTeacher(EncoderTeacher.Config(), TeacherSettings(torch.device("cpu")), found)}, "teacher")


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random teacher in Hugging Face format."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("teacher")
    save_pretrained(folder, Encoder(tiny_shape()).reset_parameters(), "hubert", normalize=False)
    return folder


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen recordings of 1 to 3 s: gliding tones in noise, enough to train on for a test."""
    folder, random = tmp_path_factory.mktemp("speech"), np.random.default_rng(3)
    for i in range(24):
        seconds = random.uniform(1.0, 3.0)
        t = np.arange(int(seconds * 16_000)) / 16_000
        pitch = random.uniform(90, 300) * (1 + 0.3 * np.sin(2 * np.pi * random.uniform(0.5, 3) * t))
        wave = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.02 * random.standard_normal(len(t))
        soundfile.write(folder / f"{i:02d}.wav", wave.astype(np.float32), 16_000)
    return folder
