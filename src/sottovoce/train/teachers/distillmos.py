"""Speech quality by Distill-MOS (Stahl and Gamper 2025, arXiv 2502.05356)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings
from sottovoce.train.teachers.judge import Judge, tensors_in

WINDOW, HOP = 122_880, 16_000  # samples that the network hears at a time; most samples from one window to the next
HEADS = 8
# parts of the names in the checkpoint -> those here
NAMES = {
    "cnn.cnn.": "cnn.",
    "transformer_pool_attn.": "",
    "transformer.norm.": "norm.",
    "transformer.position_encoding.pe": "positions",
    "transformer.linear_proj.": "project.",
    "transformer.transformer_encoder.": "transformer.",
}


@TEACHER_KINDS.register("distillmos")
class DistillMos(Judge):
    """The quality of a recording as listeners would rate it, from 1 (bad) to 5 (excellent): one number.

    The network is written here; its shape is read from the weights. It hears 7.68 s at a time; longer recordings are the mean over windows,
    shorter ones are filled with zeros.
    """

    package = "distillmos==0.9.1"
    file = "weights/distill_mos_v7.pt"
    licence = "MIT"
    scores = ("quality",)

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        """source: a file with weights, or ``distillmos``, the package that carries them."""

        source: str = "distillmos"

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        super().__init__(config, settings)
        state = {renamed(name): tensor for name, tensor in tensors_in(self.path, "model").items()}
        try:
            self.network = QualityNetwork(state)
            self.network.load_state_dict(state)
        except (KeyError, RuntimeError):
            raise ValueError(f"{self.path} does not hold the weights of Distill-MOS") from None
        self.network.eval().requires_grad_(False).to(settings.device, self.dtype)

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(1, 0)

    @property
    def params(self) -> int:
        return sum(weight.numel() for weight in self.network.parameters())

    def judge(self, waves: Tensor) -> Tensor:
        """(N, S) -> (N, 1)."""
        over = max(0, waves.shape[1] - WINDOW)
        waves = F.pad(waves, (0, max(0, WINDOW - waves.shape[1])))
        starts = torch.linspace(0, over, math.ceil(over / HOP) + 1).long().tolist()
        scores = [self.network(waves[:, start : start + WINDOW]) for start in starts]
        return torch.stack(scores).float().mean(0)


def renamed(name: str) -> str:
    """A name of the checkpoint as it is here."""
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


class QualityNetwork(nn.Module):
    """(B, WINDOW) waves -> (B, 1): a compressed complex spectrum, convolutions over frequency and time, a transformer, and pooling by
    attention."""

    positions: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """state: the weights, for the shapes."""
        super().__init__()
        sizes = [state[name].shape[:2] for name in state if name.startswith("cnn.") and name.endswith("weight")]
        layers: list[nn.Module] = []
        for i, (outputs, inputs) in enumerate(sizes):
            strides = (1 if i == 0 else 2, 2 if i == len(sizes) - 1 else 1)  # over frequency and time
            layers += [nn.Conv2d(inputs, outputs, 3, strides, (0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*layers)
        dim, width = state["project.weight"].shape
        self.norm_input, self.norm = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.project, self.norm_trans = nn.Linear(width, dim), nn.BatchNorm1d(dim)
        self.register_buffer("positions", torch.empty_like(state["positions"]))
        depth = len([name for name in state if name.startswith("transformer.layers.") and name.endswith("in_proj_weight")])
        layer = nn.TransformerEncoderLayer(dim, HEADS, 2 * dim, batch_first=True, dropout=0.0)
        self.transformer = nn.TransformerEncoder(layer, depth)
        self.pool = nn.ModuleDict(
            {"linear1": nn.Linear(dim, 2 * dim), "linear2": nn.Linear(2 * dim, 1), "linear3": nn.Linear(dim, 1)}
        )

    def forward(self, wave: Tensor) -> Tensor:
        wave = wave / (wave.abs().amax(1, keepdim=True) + 1e-8)
        x = self.cnn(spectrum(wave).to(self.project.weight.dtype)).flatten(1, 2)
        x = self.norm(self.norm_input(x)).transpose(1, 2)
        x = self.transformer(self.project(x) + self.positions)
        x = self.norm_trans(x.transpose(1, 2)).transpose(1, 2)
        attention = self.pool["linear2"](F.relu(self.pool["linear1"](x))).softmax(1)
        score: Tensor = self.pool["linear3"]((attention * x).sum(1))
        return 1 + 4 * score.sigmoid()


def spectrum(wave: Tensor) -> Tensor:
    """(B, S) -> (B, 2, 161, S / 160): real and imaginary part, with magnitudes to the power of 0.3; 20 ms Hann windows every 10 ms."""
    wave = F.pad(wave, (80, 80), mode="reflect")
    window = torch.hann_window(320, device=wave.device)
    x = torch.view_as_real(torch.stft(wave, 320, 160, 320, window, center=False, return_complex=True))
    magnitude = x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return (magnitude.pow(0.3) * x / magnitude).permute(0, 3, 1, 2)
