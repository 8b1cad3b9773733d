"""Importance by how far training has moved weights."""

from __future__ import annotations

from dataclasses import dataclass

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.importance.base import Evidence, Importance, Scores, unit_matrix


@IMPORTANCES.register("movement")
class Movement(Importance):
    """The sum of the absolute changes of a unit's weights in training: units that moved most are wanted most."""

    @dataclass(frozen=True)
    class Config:
        """since: the model before its training, as in TEACHER; by default that with which the run started, for a stage after others."""

        since: str = ""

    def scores(self, evidence: Evidence) -> Scores:
        before, now = evidence.origin(self.config.since), evidence.tensors
        return {group.name: (unit_matrix(now, group) - unit_matrix(before, group)).norm(p=1, dim=1) for group in evidence.plan}
