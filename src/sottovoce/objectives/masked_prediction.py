"""HuBERT's pre-training objective (Hsu et al. 2021, arXiv 2106.07447): predict the clusters of masked frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, by_mask
from sottovoce.objectives.clusters import ClusterConfig, Clusters


@OBJECTIVES.register("masked_prediction")
class MaskedPrediction(Clusters):
    """Cross-entropy to k-means labels at masked frames (HuBERT); labels from MFCC, or from a layer of an earlier model.

    Logits are ``cos(A o_t, e_c) / temperature``.
    """

    @dataclass(frozen=True)
    class Config(ClusterConfig):
        """layer: 0 for MFCC (first iteration), else the teacher's layer whose outputs are clustered (HuBERT Base: 6, then 9).

        alpha: weight of masked frames; the others get 1 - alpha (the paper's L = alpha L_m + (1 - alpha) L_u; 1 in its recipe).
        """

        alpha: float = 1.0
        layer: int = 0
        dim: int = 256
        temperature: float = 0.1

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: MaskedPrediction.Config = config
        self.project = nn.Linear(student.dim, config.dim)
        self.codes = nn.Parameter(torch.empty(config.clusters, config.dim).uniform_())
        self.make_clusters(config.layer, teacher)

    def needs(self) -> Needs:
        if not self.config.layer:
            return Needs(masked_input=True, targets="none")
        return Needs(masked_input=True, layers=(self.config.layer,))

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        return super().frames(valid, mask) if self.config.alpha == 1 else valid

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        with torch.no_grad():
            labels = self.labels(self.sources(teacher, batch))[:, : frames.shape[1]][frames]
        outputs = F.normalize(self.project(student.last[frames]).float(), dim=-1)
        logits = outputs @ F.normalize(self.codes.float(), dim=-1).T / self.config.temperature
        loss = F.cross_entropy(logits, labels, reduction="none")
        correct = (logits.argmax(-1) == labels).float()
        if self.config.alpha == 1 or student.mask is None:
            return Loss(loss.sum(), {"cross_entropy": loss.sum().detach(), "accuracy": correct.sum()})
        masked = student.mask[frames].float()
        total = (loss * by_mask(student.mask[frames], self.config.alpha)).sum()
        share = masked.sum().clamp(min=1) / len(masked)  # makes the logs means over masked frames
        return Loss(
            total, {"cross_entropy": (loss * masked).sum().detach() / share, "accuracy": (correct * masked).sum() / share}
        )
