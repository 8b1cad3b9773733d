"""Regression to an utterance teacher's vector or score (speaker, quality) of each recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss, Vectors
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of
from sottovoce.objectives.distance import Distance
from sottovoce.objectives.scale import Scale, few


@OBJECTIVES.register("utterance_regression")
class UtteranceRegression(Objective):
    """Distance between an utterance teacher's vector and a linear map of one student layer's mean over time.

    The teacher gives a vector or a score per recording (``sottovoce list teacher-kinds``). The objective is ours; the mean over valid
    frames is that of x-vectors, without the deviation.
    """

    reads: ClassVar[Literal["frames", "utterance", "outputs"]] = "utterance"

    @dataclass(frozen=True)
    class Config(Distance):
        """layer: the student's, a number or a share of its depth. cosine, mse, l1: weights, see `Distance`; for a score, which is one
        number, use mse or l1 alone.

        map: "linear", or "none": the first dimensions of the mean are the teacher's vector, as many as it has, so that recordings can be
        compared by that layer without the map. standardize: compares with the vectors at zero mean and unit variance over the first
        training batches.
        """

        layer: str = "1/1"
        map: Literal["linear", "none"] = "linear"
        standardize: bool = False
        l1: float = 0.0
        cosine: float = 1.0

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: UtteranceRegression.Config = config
        if teacher.dim == 1 and config.cosine:
            raise ValueError("the teacher gives a score, and one number has no cosine; set cosine: 0 and mse: 1")
        self.layer = layer_index(config.layer, student.depth)
        if config.map == "none" and student.dim < teacher.dim:
            raise ValueError(f"map: none needs a student as wide as the teacher's vector, {teacher.dim}; it has {student.dim}")
        self.dim = teacher.dim
        self.project = nn.Linear(student.dim, teacher.dim) if config.map == "linear" else nn.Identity()
        self.scale = Scale(teacher.dim) if config.standardize else nn.Identity()

    def needs(self) -> Needs:
        return Needs(layers=())

    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        if isinstance(self.scale, Scale):
            self.scale.set(torch.cat([answer.vectors.float() for _, answer in few(batches) if isinstance(answer, Vectors)]))

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Vectors)
        x = student.hidden[self.layer]
        share = frames.to(x.dtype)[..., None] / frames.sum(1).clamp(min=1)[:, None, None]
        output = self.project((x * share).sum(1)).float()[:, : self.dim]
        parts = self.config.parts(output, self.scale(teacher.vectors.float()))
        return Loss(self.config.total(parts).sum(), {name: part.sum().detach() for name, part in parts.items()})
