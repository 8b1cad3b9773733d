"""Regression to an utterance teacher's scores (quality) by a head that stays with the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss, Vectors
from sottovoce.encoder.score_head import ScoreHead, ScoreShape
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of
from sottovoce.objectives.distance import Distance


@OBJECTIVES.register("score")
class Score(Objective):
    """Distance between a quality model's scores of each recording, its pseudo-labels, and those of a head on the student.

    After Stahl and Gamper 2025, arXiv 2502.05356; that they take the squared difference is our guess.

    The head is kept in the student's folder, where ``sottovoce evaluate --task quality-score`` and ``student.rate(wave)`` find it.
    """

    reads: ClassVar[Literal["frames", "utterance", "outputs"]] = "utterance"
    kept: ClassVar[str] = "head"

    @dataclass(frozen=True)
    class Config(Distance):
        """layer: the student's, a number or a share of its depth. attention: width of the layer that weighs frames; 0: the mean. bounds:
        lowest and highest score, which the head cannot exceed; empty: no limits. mse, l1: weights, see `Distance`; cosine must be 0."""

        layer: str = "1/1"
        attention: int = 64  # not known; Distill-MOS: twice its width
        bounds: tuple[float, ...] = (1.0, 5.0)
        l1: float = 0.0
        cosine: float = 0.0
        mse: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.cosine:
                raise ValueError("scores have no cosine; set cosine: 0 and mse or l1 above 0")
            if self.attention < 0:
                raise ValueError(f"attention must be 0 or more, not {self.attention}")
            if self.bounds and (len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]):
                raise ValueError("bounds must be two numbers, the lowest score first, e.g. [1, 5], or empty")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: Score.Config = config
        names = tuple(str(number) for number in range(1, teacher.dim + 1))
        shape = ScoreShape(names, layer_index(config.layer, student.depth), config.attention, config.bounds)
        self.head = ScoreHead(student.dim, shape)

    def needs(self) -> Needs:
        return Needs(layers=())

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Vectors)
        parts = self.config.parts(self.head(student), teacher.vectors.float())
        return Loss(self.config.total(parts).sum(), {name: part.sum().detach() for name, part in parts.items()})
