"""Importance by the first derivative of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.importance.base import Evidence, Importance, Scores


@IMPORTANCES.register("taylor")
class Taylor(Importance):
    """The mean size of the loss's derivative by a unit's gate (Michel, Levy and Neubig 2019, arXiv 1905.10650; Molchanov et al. 2019)."""

    additive = True

    @dataclass(frozen=True)
    class Config:
        """spread: gates are drawn between 1 - spread and 1 for each batch. At 0 a copy of the teacher has no distance to it, so that
        distillation has no derivative there."""

        spread: float = 0.5

        def __post_init__(self) -> None:
            if not 0 <= self.spread < 1:
                raise ValueError(f"spread must be at least 0 and below 1; got {self.spread}")

    def part(self, derivative: Tensor) -> Tensor:
        """What one batch adds."""
        return derivative.abs()

    def scores(self, evidence: Evidence) -> Scores:
        total: dict[str, Tensor] = {}
        batches = 0
        for found in evidence.gradients(self.config.spread):
            batches += 1
            for name, derivative in found.items():
                part = self.part(derivative.double())
                total[name] = total[name] + part if name in total else part
        return {name: part / batches for name, part in total.items()}
