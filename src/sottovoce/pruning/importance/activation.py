"""Importance by activations and the weights that read them."""

from __future__ import annotations

import torch

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.importance.base import Evidence, Importance, Scores, consumers, refuse_silent
from sottovoce.pruning.repair import readers


@IMPORTANCES.register("activation")
class Activation(Importance):
    """The size of what a unit adds: its activations times the weights that read them (after Wanda, Sun et al. 2024, arXiv 2306.11695)."""

    def scores(self, evidence: Evidence) -> Scores:
        refuse_silent(self.name, evidence.plan)
        moments, tensors = evidence.moments(readers(evidence.plan)), evidence.tensors
        scores = {}
        for group in evidence.plan:
            energy = torch.zeros(group.size)
            for module in consumers(group):
                weight = tensors[f"{module}.weight"].detach().float().flatten(1)  # (M, N), N the columns that moments are of
                along = (moments[module].power * weight.square().sum(0)).cpu()  # one number per column
                inside = any(part.inside for part in group.slices if part.scale)
                energy += along.view(-1, group.size).sum(0) if inside else along.view(group.size, -1).sum(1)
            scores[group.name] = energy.sqrt()
        return scores
