"""Correlation of features, in the manner of Barlow Twins, as a distillation loss (arXiv 2312.12153; arXiv 2505.13270)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of


@OBJECTIVES.register("feature_correlation")
class FeatureCorrelation(Objective):
    """Cross-correlation of predicted and teacher features towards the identity, and small correlations among the predicted ones.

    Heads predict teacher layers from the student's last layer, as in DistilHuBERT. Over the N pieces of a batch, means of `pool` frames,
    with features z of zero mean and unit variance and C = Z_s' Z_t / (N - 1): ``sum_i (C_ii - 1)^2 / diagonal + cross sum_(i != j) C_ij^2 /
    off_diagonal``, the same off-diagonal sum over Z_s' Z_s with `own`, and ``- cosine log sigmoid cos`` of the pieces. Mean over layers.
    """

    @dataclass(frozen=True)
    class Config:
        """The defaults are those of the code of arXiv 2505.13270, which correlates over the rows of a batch, for each place in time."""

        layers: tuple[str, ...] = ("1/3", "2/3", "1/1")
        pool: int = 150
        diagonal: float = 10.0
        off_diagonal: float = 100.0
        cross: float = 5e-4
        own: float = 5e-4
        cosine: float = 1.0

        def __post_init__(self) -> None:
            if self.pool < 1 or self.diagonal <= 0 or self.off_diagonal <= 0:
                raise ValueError("pool must be at least 1, diagonal and off_diagonal above 0")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: FeatureCorrelation.Config = config
        self.targets = [layer_index(spec, teacher.depth) for spec in config.layers]
        if not self.targets:
            raise ValueError("feature_correlation needs at least one teacher layer to predict")
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(student.dim, teacher.dim), nn.GELU(), nn.Linear(teacher.dim, teacher.dim))
            for _ in self.targets
        )

    def needs(self) -> Needs:
        return Needs(layers=tuple(sorted(set(self.targets))), compares_rows=True)

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        """The loss of the batch, times its number of rows."""
        assert isinstance(teacher, Features)
        config, parts = self.config, dict[str, Tensor]()
        for index, head in zip(self.targets, self.heads, strict=True):
            ours, theirs = (self.pieces(x, frames) for x in (head(student.last), teacher.hidden[index]))
            cross, own = correlation(ours, theirs), correlation(ours, ours)
            found = {
                "diagonal": (cross.diagonal() - 1).square().sum() / config.diagonal,
                "cross": config.cross * off_diagonal(cross) / config.off_diagonal,
                "own": config.own * off_diagonal(own) / config.off_diagonal,
                "cosine": -config.cosine * F.logsigmoid(F.cosine_similarity(ours, theirs, dim=-1)).mean(),
            }
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + value * len(frames) / len(self.targets)
        return Loss(torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()})

    def pieces(self, x: Tensor, frames: Tensor) -> Tensor:
        """(B, T, D) and (B, T) bool -> (N, D) float32: means over the counted frames of each piece of `pool` that has any."""
        short = -x.shape[1] % self.config.pool
        counted = F.pad(frames, (0, short)).unflatten(1, (-1, self.config.pool)).float()
        sums = F.pad(x.float() * frames[..., None], (0, 0, 0, short)).unflatten(1, (-1, self.config.pool)).sum(2)
        count = counted.sum(2, keepdim=True)
        return (sums / count.clamp(min=1))[count[..., 0] > 0]


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """(N, D) and (N, D') -> (D, D') correlations of features over N; zeros of a single one."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = ((z - z.mean(0)) / ((z - z.mean(0)).square().sum(0) / max(1, len(z) - 1) + 1e-8).sqrt() for z in (x, y))
        return x.T @ y / max(1, len(x) - 1)


def off_diagonal(x: Tensor) -> Tensor:
    """The sum of the squares beside the diagonal of (D, D)."""
    return x.square().sum() - x.diagonal().square().sum()
