"""The examples that other programs take in: they answer as those programs ask."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import sottovoce
from sottovoce.encoder import Encoder
from sottovoce.hub.student import save_student
from tests.unit.test_export_hf import HUBERT, encoder, waves

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_contentvec(tmp_path: Path, teacher_folder: Path) -> None:
    """As wide as the teacher, of the layer that is asked for; `final_proj` is the teacher's."""
    import safetensors.torch

    depth = 12
    student = Encoder(dataclasses.replace(HUBERT, layers=HUBERT.layers[:1] * depth)).reset_parameters().eval()
    maps, layers = {"rest": nn.Linear(16, 24)}, {"rest": list(range(depth + 1))}
    save_student(tmp_path / "student", student, normalize=False, projections=maps, layers=layers, teacher="someone")
    weights = safetensors.torch.load_file(teacher_folder / "model.safetensors")
    width = sottovoce.load(teacher_folder).config.dim
    weights |= {"final_proj.weight": torch.randn(5, width), "final_proj.bias": torch.randn(5)}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_bytes((teacher_folder / "config.json").read_bytes())
    safetensors.torch.save_file(weights, tmp_path / "teacher" / "model.safetensors")
    model = example("contentvec").ContentVec(tmp_path / "student", teacher=tmp_path / "teacher").eval()
    assert torch.equal(model.final_proj.weight, weights["final_proj.weight"])
    wave = waves(1, 3_000)
    right = sottovoce.load(tmp_path / "student", "teacher")(wave)
    for layer in (9, 12):
        states, _ = model.extract_features(source=wave, padding_mask=torch.zeros(wave.shape).bool(), output_layer=layer)
        assert torch.equal(states, right.hidden[layer])
    assert torch.equal(model.encoder(wave[0]), right.hidden[12].transpose(1, 2))
    assert model.half().extract_features(source=wave.half())[0].dtype == torch.float16


@torch.no_grad()
def test_diarization(tmp_path: Path) -> None:
    """pyannote.audio counts the frames that the student gives, and reads all of its layers."""
    pytest.importorskip("pyannote.audio")
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    save_student(tmp_path, encoder(HUBERT), normalize=False, teacher="someone")
    model = example("diarization_pyannote").SmallSSeRiouSS(wav2vec=tmp_path).eval()
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=1.0,
        classes=["one", "two", "three"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()
    wave = waves(2, 16_000)
    scores = model(wave[:, None])
    assert scores.shape == (2, model.num_frames(16_000), 7)
    assert len(model.wav2vec_weights) == len(HUBERT.layers)
    hidden = sottovoce.load(tmp_path)(wave).hidden
    for mine, right in zip(model.wav2vec.extract_features(wave)[0], hidden[1:], strict=True):
        assert torch.equal(mine, right)
