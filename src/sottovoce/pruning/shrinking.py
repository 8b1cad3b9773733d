"""Cutting during training: removes units that will not open again from the encoder, the gates and the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.pruning.apply import cut, cut_like
from sottovoce.pruning.budget import Budget
from sottovoce.pruning.gated import GatedEncoder
from sottovoce.pruning.gates import open_probability
from sottovoce.pruning.plan import PruningPlan

Kept = dict[str, list[int]]  # group name -> numbers of the units that stay


@torch.no_grad()
def units_to_keep(gated: GatedEncoder, budget: Budget, below: float) -> Kept | None:
    """The units of each group whose probability of being open is at least `below`, at least the group's minimum. ``None`` if these are all
    units, or if the rest would be smaller than the budget."""
    kept: Kept = {}
    for name, log_alpha in gated.gates.split(gated.gates.flat().detach()).items():
        group = gated.plan[name]
        mask = open_probability(log_alpha, gated.gates.config) >= below
        if group.minimum:
            mask[log_alpha.topk(group.minimum).indices] = True
        kept[name] = mask.nonzero().flatten().tolist()
    if all(len(kept[group.name]) == group.size for group in gated.plan):
        return None
    left = budget.measure({name: len(units) for name, units in kept.items()})
    return kept if left >= budget.config.keep else None


def gate_values(plan: PruningPlan, kept: Mapping[str, Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """By group (size,): 1 for the units `kept`, 0 for the others."""
    return {
        group.name: torch.zeros(group.size, device=device).index_fill(
            0, torch.tensor(list(kept[group.name]), dtype=torch.long, device=device), 1.0
        )
        for group in plan
    }


@torch.no_grad()
def shrink(gated: GatedEncoder, kept: Mapping[str, Sequence[int]]) -> GatedEncoder:
    """The gated encoder with only the units `kept`; their weights and log_alpha are unchanged.

    With the same gate values it computes the same function. Draws no random numbers.
    """
    encoder = cut(gated.encoder, gated.plan, gate_values(gated.plan, kept, gated.gates.chosen.device))
    smaller = GatedEncoder(encoder, gated.units, gated.gates.config, torch.Generator())
    smaller.gates = gated.gates.select(smaller.plan, kept)
    return smaller.train(gated.training)


def shrink_tensors(gated: GatedEncoder, kept: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cuts `tensors`, named and shaped like parameters of `gated` (an optimiser's moments), as `shrink` cuts the parameters."""
    own = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    smaller = {f"encoder.{name}": tensor for name, tensor in cut_like(own, gated.plan, kept).items()} if own else {}
    for group in gated.plan:
        name = f"gates.log_alpha.{gated.gates.key(group)}"
        if name in tensors and gated.gates.config.pinching:  # one number for all units
            smaller[name] = tensors[name]
        elif name in tensors:
            smaller[name] = tensors[name][torch.tensor(list(kept[group.name]), dtype=torch.long, device=tensors[name].device)]
    return smaller


def combine_cuts(before: Mapping[str, Sequence[int]], then: Mapping[str, Sequence[int]]) -> Kept:
    """The units that two cuts in sequence leave, numbered as in the encoder before both. `then` is numbered as in the encoder between.

    A group missing in `before` was complete; one missing in `then` is unchanged, or was removed with its part.
    """
    both = {name: list(units) for name, units in before.items()}
    for name, units in then.items():
        first = before.get(name)
        both[name] = list(units) if first is None else [first[unit] for unit in units]
    return both
