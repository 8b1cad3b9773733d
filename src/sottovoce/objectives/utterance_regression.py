"""Regression to an utterance teacher's vector or score (speaker, quality) of each recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss, Vectors
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of
from sottovoce.objectives.distance import Distance


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
        number, use mse or l1 alone."""

        layer: str = "1/1"
        l1: float = 0.0
        cosine: float = 1.0

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: UtteranceRegression.Config = config
        if teacher.dim == 1 and config.cosine:
            raise ValueError("the teacher gives a score, and one number has no cosine; set cosine: 0 and mse: 1")
        self.layer = layer_index(config.layer, student.depth)
        self.project = nn.Linear(student.dim, teacher.dim)

    def needs(self) -> Needs:
        return Needs(layers=())

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Vectors)
        x = student.hidden[self.layer]
        share = frames.to(x.dtype)[..., None] / frames.sum(1).clamp(min=1)[:, None, None]
        parts = self.config.parts(self.project((x * share).sum(1)).float(), teacher.vectors.float())
        return Loss(self.config.total(parts).sum(), {name: part.sum().detach() for name, part in parts.items()})
