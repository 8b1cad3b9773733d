"""Cutting while training goes on: units that will not open again leave the encoder, the gates and the optimiser for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.pruning.apply import cut, cut_like
from sottovoce.pruning.budget import Budget
from sottovoce.pruning.gated import GatedEncoder
from sottovoce.pruning.gates import open_probability

Kept = dict[str, list[int]]  # group name -> numbers of the units that stay


@torch.no_grad()
def units_to_keep(gated: GatedEncoder, budget: Budget, below: float) -> Kept | None:
    """The units whose chance of being open is at least `below`, of every group at least its minimum. ``None`` when that is all of them,
    or when what would be left could no longer be as large as the budget allows."""
    kept: Kept = {}
    for name, log_alpha in gated.gates.split(gated.gates.flat().detach()).items():
        group = gated.plan[name]
        stays = open_probability(log_alpha, gated.gates.config) >= below
        if group.minimum:
            stays[log_alpha.topk(group.minimum).indices] = True
        kept[name] = stays.nonzero().flatten().tolist()
    if all(len(kept[group.name]) == group.size for group in gated.plan):
        return None
    left = budget.measure({name: len(units) for name, units in kept.items()})
    return kept if left >= budget.config.keep else None


@torch.no_grad()
def shrink(gated: GatedEncoder, kept: Mapping[str, Sequence[int]]) -> GatedEncoder:
    """The gated encoder without all units but `kept`; weights of the others and their log_alpha stay as they are.

    With the same gate values for what is left it is the same function. Draws nothing from torch's random generator.
    """
    values = {
        group.name: torch.zeros(group.size).index_fill(0, torch.tensor(list(kept[group.name]), dtype=torch.long), 1.0)
        for group in gated.plan
    }
    device = gated.gates.chosen.device
    encoder = cut(gated.encoder, gated.plan, {name: value.to(device) for name, value in values.items()})
    smaller = GatedEncoder(encoder, gated.units, gated.gates.config, torch.Generator())
    smaller.gates = gated.gates.select(smaller.plan, kept)
    return smaller.train(gated.training)


def shrink_tensors(gated: GatedEncoder, kept: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that are named and shaped like parameters of `gated` (an optimiser's moments), cut as `shrink` cuts these."""
    own = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    smaller = {f"encoder.{name}": tensor for name, tensor in cut_like(own, gated.plan, kept).items()} if own else {}
    for group in gated.plan:
        name = f"gates.log_alpha.{gated.gates.key(group)}"
        if name in tensors:
            smaller[name] = tensors[name][torch.tensor(list(kept[group.name]), dtype=torch.long, device=tensors[name].device)]
    return smaller


def combine_cuts(before: Mapping[str, Sequence[int]], then: Mapping[str, Sequence[int]]) -> Kept:
    """What two cuts, one after the other, leave, counted in the encoder before both. `then` counts within what `before` left.

    A group that `before` does not name was complete; one that `then` does not name stays as it was, or went with the part it was in.
    """
    both = {name: list(units) for name, units in before.items()}
    for name, units in then.items():
        first = before.get(name)
        both[name] = list(units) if first is None else [first[unit] for unit in units]
    return both
