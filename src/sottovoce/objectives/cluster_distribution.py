"""The teacher's distribution over clusters as target (Wang et al. 2022, arXiv 2210.15631; DiceHuBERT, 2025, arXiv 2507.02911)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, layer_index
from sottovoce.objectives.clusters import ClusterConfig, Clusters


@OBJECTIVES.register("cluster_distribution")
class ClusterDistribution(Clusters):
    """KL divergence from the teacher's distribution over k-means clusters of one of its layers to the student's (discriminative loss).

    The paper's classes are HuBERT's label embeddings, which published encoders lack; the clusters stand for them. Teacher's logits:
    ``cos(x_t, c) / temperature``, or ``-|x_t - c|^2 / temperature``, of standardised vectors x. Student's, from its last layer:
    ``cos(A o_t, c) / student_temperature``, or those of a linear map.
    """

    @dataclass(frozen=True)
    class Config(ClusterConfig):
        """layer: the teacher's, a number or a share of its depth (ours). clusters: 504 classes in the paper. similarity: of the teacher's
        frames and centroids.

        student: "embeddings", a map into the centroids' space and the cosine to the same centroids (the paper's type 1), or "linear", a map
        to the logits (type 2). hard: cross-entropy with the teacher's likeliest cluster (with embeddings: type 3). mask: masks the
        student's input and counts masked frames only (DiceHuBERT). temperature: HuBERT's 0.1; the paper's is not known.
        """

        clusters: int = 504
        layer: str = "1/1"
        similarity: Literal["cosine", "distance"] = "cosine"
        temperature: float = 0.1
        student: Literal["embeddings", "linear"] = "embeddings"
        student_temperature: float = 0.1
        hard: bool = False
        mask: bool = False

        def __post_init__(self) -> None:
            if self.temperature <= 0 or self.student_temperature <= 0 or self.clusters < 2:
                raise ValueError("temperature and student_temperature must be above 0, clusters at least 2")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: ClusterDistribution.Config = config
        layer = layer_index(config.layer, teacher.depth)
        if not layer:
            raise ValueError("cluster_distribution clusters a layer of the teacher from 1 on; its front end is not one")
        self.project = nn.Linear(student.dim, teacher.dim if config.student == "embeddings" else config.clusters)
        self.make_clusters(layer, teacher)
        nn.init.normal_(self.centroids)  # until `fit`

    def needs(self) -> Needs:
        return Needs(masked_input=self.config.mask, layers=(self.layer,))

    @torch.no_grad()
    def target(self, sources: Tensor) -> Tensor:
        """(..., D) teacher frames -> (..., clusters) float32, logarithms of probabilities."""
        if self.config.similarity == "distance":
            logits = -self.distances(sources)
        else:
            x = F.normalize((sources - self.mean) / self.deviation, dim=-1)
            logits = x @ F.normalize(self.centroids, dim=-1).T
        return F.log_softmax(logits / self.config.temperature, dim=-1)

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) student frames -> (..., clusters)."""
        y = self.project(x).float()
        if self.config.student == "linear":
            return y / self.config.student_temperature
        return F.normalize(y, dim=-1) @ F.normalize(self.centroids, dim=-1).T / self.config.student_temperature

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        with torch.autocast(frames.device.type, enabled=False):
            target = self.target(self.sources(teacher, batch))
        logits = self.logits(student.last)
        if self.config.hard:
            loss = F.cross_entropy(logits.transpose(1, 2), target.argmax(-1), reduction="none")
        else:
            loss = F.kl_div(F.log_softmax(logits, dim=-1), target, reduction="none", log_target=True).sum(-1)
        correct = (logits.argmax(-1) == target.argmax(-1)) & frames
        total = (loss * frames).sum()
        return Loss(total, {"cross_entropy" if self.config.hard else "kl": total.detach(), "accuracy": correct.sum().float()})
