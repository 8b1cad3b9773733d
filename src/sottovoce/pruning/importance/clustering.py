"""Importance by how well other units of the same group can stand for a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sottovoce.core.extras import optional
from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.apply import unit_matrix
from sottovoce.pruning.importance.base import Evidence, Importance, Scores, refuse_silent
from sottovoce.pruning.unit import Group


@IMPORTANCES.register("clustering")
class ClusterImportance(Importance):
    """Units with similar weights become one (after Interspeech 2026-1010, arXiv 2606.11836).

    A unit is all of its weights: a head is queries, keys, values and outputs. Clusters join by Ward's rule; a unit's score is the share
    of the group's variance that is lost when it joins another, all earlier ones included. What stays of a cluster has the mean of the
    weights that make its units, and the sum of those that read them.
    """

    ranks = True

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self.joins: dict[str, dict[int, int]] = {}  # group -> unit -> the unit that stands for it

    def scores(self, evidence: Evidence) -> Scores:
        tensors = evidence.tensors
        refuse_silent(self.name, evidence.plan)
        inside = [group.kind for group in evidence.plan if any(part.inside for part in group.slices)]
        if inside:
            raise ValueError(
                f"importance 'clustering' joins whole units, not channels inside them; take {inside[0]} out of pruning.units"
            )
        return {group.name: self._score(group, unit_matrix(tensors, group)) for group in evidence.plan}

    def _score(self, group: Group, units: Tensor) -> Tensor:
        scores, joins = ward(units)
        self.joins[group.name] = joins
        return scores

    def rewritten(self, tensors: Mapping[str, Tensor], group: Group, kept: Sequence[int]) -> Mapping[str, Tensor]:
        if not kept:
            return {}
        joins = self.joins.get(group.name)
        if joins is None:  # the scores came from disk
            _, joins = ward(unit_matrix(tensors, group))
        members: dict[int, list[int]] = {unit: [] for unit in kept}
        for unit in range(group.size):
            at = unit
            while at not in members:
                at = joins[at]
            members[at].append(unit)
        changed: dict[str, Tensor] = {}
        for part in group.slices:
            tensor = changed.get(part.name, tensors[part.name])
            if not (part.select and tensor.is_floating_point() and tensor.numel()):
                continue
            units = tensor.detach().movedim(part.dim, 0)
            blocks = units.reshape(group.size, -1)
            joined = blocks.clone()
            for unit, others in members.items():
                joined[unit] = blocks[others].sum(0) if part.scale else blocks[others].mean(0)
            changed[part.name] = joined.view(units.shape).movedim(0, part.dim).contiguous()
        return changed


def ward(units: Tensor) -> tuple[Tensor, dict[int, int]]:
    """Joins (U, N) units one after another by Ward's rule.

    Returns the score of each unit, and for each but the last the unit that stands for it from then on, the nearer of the two to their
    common mean.
    """
    hierarchy = optional("scipy.cluster.hierarchy", "eval", "importance 'clustering'")
    points = units.double().cpu().numpy()
    count = len(points)
    scores, joins = torch.ones(count, dtype=torch.float64), dict[int, int]()
    if count == 1:
        return scores, joins
    total = max(float(((points - points.mean(0)) ** 2).sum()), 1e-30)
    stands, means, sizes = list(range(count)), list(points), [1] * count
    lost = 0.0
    for first, second, distance, size in hierarchy.ward(points):
        a, b = int(first), int(second)
        mean = (sizes[a] * means[a] + sizes[b] * means[b]) / size
        near, far = sorted((stands[a], stands[b]), key=lambda unit: (float(np.square(points[unit] - mean).sum()), unit))
        lost += distance**2 / 2
        scores[far], joins[far] = min(lost / total, 1.0), near
        stands.append(near)
        means.append(mean)
        sizes.append(int(size))
    scores[stands[-1]] = 2.0
    return scores, joins
