"""Importance by how far training has moved weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.apply import unit_matrix
from sottovoce.pruning.importance.base import Evidence, Importance, Scores
from sottovoce.pruning.plan import PruningPlan


@IMPORTANCES.register("movement")
class Movement(Importance):
    """The sum of the absolute changes of a unit's weights in training: units that moved most are wanted most."""

    @dataclass(frozen=True)
    class Config:
        """since: the model before its training, as in TEACHER; by default that with which the run started, for a stage after others."""

        since: str = ""

    def scores(self, evidence: Evidence) -> Scores:
        return movement(evidence.tensors, evidence.origin(self.config.since), evidence.plan)


@torch.no_grad()
def movement(now: Mapping[str, Tensor], before: Mapping[str, Tensor], plan: PruningPlan) -> Scores:
    """(size,) of each group: the l1 change of a unit's weights."""
    return {group.name: (unit_matrix(now, group) - unit_matrix(before, group)).norm(p=1, dim=1) for group in plan}
