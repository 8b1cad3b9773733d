"""Classification of utterance labels (speakers) at a middle layer: the one objective that needs labels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of


@OBJECTIVES.register("label_classification")
class LabelClassification(Objective):
    """Additive-margin softmax over utterance labels, on mean and deviation of one layer over time (Wang et al. 2018, arXiv 1801.05599).

    ``data.label`` names the column; rows without a label add no loss. With speaker labels on part of the data, a few hours teach what a
    self-supervised model learns from thousands. A label's class is its hash, so no list of labels is needed: among n labels, about
    n^2 / (2 classes) pairs share a class.
    """

    @dataclass(frozen=True)
    class Config:
        """layer: the student's. scale, margin: of the loss; the defaults are those of SUPERB's x-vectors on VoxCeleb."""

        layer: str = "1/3"
        classes: int = 16_384
        dim: int = 128
        scale: float = 30.0
        margin: float = 0.4

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: LabelClassification.Config = config
        self.layer = layer_index(config.layer, student.depth)
        self.project = nn.Linear(2 * student.dim, config.dim)
        self.classes = nn.Embedding(config.classes, config.dim)

    def needs(self) -> Needs:
        return Needs(masked_input=True, targets="none", column="label")  # shares one student pass with masked prediction

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        return valid

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        """Rows with or without a label: with fewer labels this objective weighs less."""
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        """Sum over the rows that have a label. The logs are means over those rows."""
        x = student.hidden[self.layer]
        share = frames.to(x.dtype)[..., None] / frames.sum(1).clamp(min=1)[:, None, None]
        mean = (x * share).sum(1)
        deviation = ((x - mean[:, None]).square() * share).sum(1).clamp(min=1e-6).sqrt()
        output = F.normalize(self.project(torch.cat([mean, deviation], dim=-1)).float(), dim=-1)
        cosines = output @ F.normalize(self.classes.weight.float(), dim=-1).T
        labels = [zlib.crc32(label.encode()) % self.config.classes for label in batch.labels or ("",) * len(x)]
        target = torch.tensor(labels, device=x.device)
        known = torch.tensor([bool(label) for label in batch.labels] or [False] * len(x), device=x.device)
        logits = self.config.scale * (cosines - self.config.margin * F.one_hot(target, self.config.classes))
        loss = F.cross_entropy(logits, target, reduction="none")
        correct = (cosines.argmax(-1) == target).float()
        total, rows = (loss * known).sum(), len(x) / known.sum().clamp(min=1)
        return Loss(total, {"cross_entropy": total.detach() * rows, "accuracy": (correct * known).sum() * rows})
