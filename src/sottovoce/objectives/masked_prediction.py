"""HuBERT's pre-training objective (Hsu et al. 2021, arXiv 2106.07447): predict the clusters of masked frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.encoder.log_mel import LogMel, mfcc
from sottovoce.objectives.base import EncoderShape, Needs, Objective, by_mask


@OBJECTIVES.register("masked_prediction")
class MaskedPrediction(Objective):
    """Cross-entropy to k-means labels at masked frames (HuBERT); labels from MFCC, or from a layer of an earlier model.

    Logits are ``cos(A o_t, e_c) / temperature``. `fit` finds the clusters before training; they are kept as buffers. Labels are
    computed batch by batch, so the corpus needs no labelling pass.
    """

    centroids: Tensor
    mean: Tensor
    deviation: Tensor

    @dataclass(frozen=True)
    class Config:
        """layer: 0 for MFCC (first iteration), else the teacher's layer whose outputs are clustered (HuBERT Base: 6, then 9).

        alpha: weight of masked frames; the others get 1 - alpha (the paper's L = alpha L_m + (1 - alpha) L_u; 1 in its recipe).
        """

        alpha: float = 1.0
        layer: int = 0
        clusters: int = 100
        dim: int = 256
        temperature: float = 0.1
        fit_frames: int = 200_000
        fit_rounds: int = 30

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: MaskedPrediction.Config = config
        size = teacher.dim if config.layer else 39
        self.logmel = LogMel(40)
        self.project = nn.Linear(student.dim, config.dim)
        self.codes = nn.Parameter(torch.empty(config.clusters, config.dim).uniform_())
        self.register_buffer("centroids", torch.zeros(config.clusters, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def needs(self) -> Needs:
        if not self.config.layer:
            return Needs(masked_input=True, targets="none")
        return Needs(masked_input=True, layers=(self.config.layer,))

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        return super().frames(valid, mask) if self.config.alpha == 1 else valid

    def sources(self, teacher: Answer | None, batch: Batch) -> Tensor:
        """(B, T, size) float32: the vectors that are clustered."""
        if self.config.layer:
            assert isinstance(teacher, Features)
            return teacher.hidden[self.config.layer].float()
        with torch.autocast(batch.wave.device.type, enabled=False):
            return mfcc(self.logmel(batch.wave))

    def labels(self, sources: Tensor) -> Tensor:
        """Nearest centroid of each frame, (B, T)."""
        with torch.autocast(sources.device.type, enabled=False):
            x = (sources - self.mean) / self.deviation
            return (self.centroids.square().sum(-1) - 2 * x @ self.centroids.T).argmin(-1)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """k-means over the first `fit_frames` frames: Lloyd's algorithm from random frames; empty clusters are restarted."""
        vectors: list[Tensor] = []
        for batch, teacher in batches:
            x = self.sources(teacher, batch)
            ends = [x.shape[1]] * len(x) if batch.lengths is None else self.logmel.frames(batch.lengths).tolist()
            vectors += [row[:end] for row, end in zip(x, ends, strict=True)]  # without padding
            if sum(map(len, vectors)) >= self.config.fit_frames:
                break
        x = torch.cat(vectors)[: self.config.fit_frames]
        if len(x) < self.config.clusters:
            raise ValueError(f"{len(x)} frames of audio are too few for {self.config.clusters} clusters")
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0) + 1e-5)
        scaled = (x - self.mean) / self.deviation
        centroids = scaled[torch.randperm(len(x), device=x.device)[: self.config.clusters]]
        for _ in range(self.config.fit_rounds):
            nearest = (centroids.square().sum(-1) - 2 * scaled @ centroids.T).argmin(-1)
            sums = torch.zeros_like(centroids).index_add_(0, nearest, scaled)
            counts = torch.bincount(nearest, minlength=len(centroids))
            restart = scaled[torch.randint(len(x), (len(centroids),), device=x.device)]
            centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], restart)
        self.centroids.copy_(centroids)

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
