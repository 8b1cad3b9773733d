"""Gating and cutting, which are the same thing: take the open units out of every tensor, fold gate values into the consumers.

A gate value that is exactly zero closes its unit. The tensors that come out are those of the smaller encoder; used for one step
in place of the encoder's own (gating) or put into a new encoder (cutting), so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.plan import PruningPlan, rebuild
from sottovoce.pruning.unit import kind_of

Values = Mapping[str, Tensor]  # group name -> (size,) gate values in [0, 1]; groups that are not named stay as they are
Kept = Mapping[str, Sequence[int]]  # group name -> numbers of the open units, ascending


def named_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Parameters and buffers by name, the non-persistent buffers included."""
    return {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}


def open_units(plan: PruningPlan, values: Values) -> dict[str, list[int]]:
    """Which units of each group are open, that is not exactly zero. One transfer to the host for all groups together.

    ValueError for a group the plan does not have, and when fewer than a group's minimum are open.
    """
    groups = [group for group in plan if group.name in values]
    if len(groups) != len(values):
        raise ValueError(f"no such group: {', '.join(sorted(set(values) - {group.name for group in groups}))}")
    if not groups:
        return {}
    masks = torch.cat([values[group.name].detach() for group in groups]).ne(0).cpu().split([group.size for group in groups])
    kept = {group.name: mask.nonzero().flatten().tolist() for group, mask in zip(groups, masks, strict=True)}
    for group in groups:
        if len(kept[group.name]) < group.minimum:
            raise ValueError(f"'{group.name}' needs {group.minimum} open unit(s), {len(kept[group.name])} are")
    return kept


def gather(tensors: Mapping[str, Tensor], plan: PruningPlan, values: Values) -> dict[str, Tensor]:
    """The tensors of the smaller encoder, those only that differ from `tensors`. Differentiable in `tensors` and `values`."""
    kept = open_units(plan, values)
    index = _indices(plan, kept, next(iter(tensors.values())).device)
    smaller = _select(tensors, plan, kept, index)
    for group in plan:
        if group.name not in kept:
            continue
        value = values[group.name]
        if 0 < len(kept[group.name]) < group.size:
            value = value[index[group.name, 1]]
        for part in group.slices:
            tensor = smaller.get(part.name, tensors[part.name])
            if not part.scale or tensor.shape[part.dim] == 0:  # emptied by this group, or by the part that the group is in
                continue
            factor = (value.repeat_interleave(part.block) if part.block > 1 else value).to(tensor.dtype)
            smaller[part.name] = tensor * factor.view([-1 if axis == part.dim else 1 for axis in range(tensor.dim())])
    return smaller


def cut_like(tensors: Mapping[str, Tensor], plan: PruningPlan, kept: Kept) -> dict[str, Tensor]:
    """`tensors`, named and shaped like the encoder's own (an optimiser's moments, say), without closed units and unscaled.

    Of a part that is gone altogether empty tensors are left: use those that the cut encoder has.
    """
    return {**tensors, **_select(tensors, plan, kept, _indices(plan, kept, next(iter(tensors.values())).device))}


def narrow(config: EncoderConfig, plan: PruningPlan, kept: Kept) -> EncoderConfig:
    """The shape of the encoder that has only the units in `kept`."""
    for group in plan:
        if group.name in kept:
            config = kind_of(group).narrow(config, group, kept[group.name])
    return config


@torch.no_grad()
def cut(encoder: Encoder, plan: PruningPlan, values: Values) -> Encoder:
    """A new, physically smaller encoder with the gate values folded in; `encoder` stays as it is. `open_units`: what was kept.

    To cut closed units for good while the others go on being gated, give 1 for every unit that stays.
    """
    tensors, kept = named_tensors(encoder), open_units(plan, values)
    return rebuild(encoder, narrow(encoder.config, plan, kept), {**tensors, **gather(tensors, plan, values)})


def _select(
    tensors: Mapping[str, Tensor], plan: PruningPlan, kept: Kept, index: Mapping[tuple[str, int], Tensor]
) -> dict[str, Tensor]:
    """The tensors that lose units, without them."""
    selected: dict[str, Tensor] = {}
    for group in plan:
        units = kept.get(group.name)
        if units is None or len(units) == group.size:
            continue
        for part in group.slices:
            if not part.select or part.name not in tensors:
                continue
            tensor = selected.get(part.name, tensors[part.name])
            if units:
                selected[part.name] = tensor.index_select(part.dim, index[group.name, part.block])
            else:
                selected[part.name] = tensor.narrow(part.dim, 0, 0)
    return selected


def _indices(plan: PruningPlan, kept: Kept, device: torch.device) -> dict[tuple[str, int], Tensor]:
    """(group, block) -> where the open units are along an axis, each `block` wide. One transfer to the device for all."""
    index: dict[tuple[str, int], Tensor] = {}
    for group in plan:
        units = kept.get(group.name, ())
        if 0 < len(units) < group.size:
            for block in {1, *(part.block for part in group.slices)}:
                index[group.name, block] = (torch.tensor(units)[:, None] * block + torch.arange(block)).flatten()
    if not index or device.type == "cpu":
        return index
    flat = torch.cat(list(index.values()))
    flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    return dict(zip(index, flat.split([len(places) for places in index.values()]), strict=True))
