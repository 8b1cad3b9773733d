"""Importance by the size of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.apply import unit_matrix
from sottovoce.pruning.importance.base import Evidence, Importance, Scores


@IMPORTANCES.register("magnitude")
class Magnitude(Importance):
    """The norm of a unit's weights."""

    @dataclass(frozen=True)
    class Config:
        """norm: "l2", or "l1", which "Is smaller always faster?" (arXiv 2211.09949) uses for heads and rows."""

        norm: Literal["l1", "l2"] = "l2"

    def scores(self, evidence: Evidence) -> Scores:
        order, tensors = 2 if self.config.norm == "l2" else 1, evidence.tensors
        return {group.name: unit_matrix(tensors, group).norm(p=order, dim=1) for group in evidence.plan}
