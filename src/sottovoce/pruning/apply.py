"""Gating and cutting: both select the open units of every tensor and multiply the consumers by the gate values.

A unit is closed if its gate value is exactly zero. The result is the tensors of the smaller encoder. Gating uses them for one step in
place of the encoder's own; cutting puts them into a new encoder. So the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.plan import PruningPlan, rebuild
from sottovoce.pruning.unit import Group, kind_of

Values = Mapping[str, Tensor]  # group name -> (size,) gate values in [0, 1]; groups without an entry are unchanged
Kept = Mapping[str, Sequence[int]]  # group name -> numbers of the open units, ascending


def named_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Parameters and buffers by name, the non-persistent buffers included."""
    return {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}


def unit_rows(tensors: Mapping[str, Tensor], group: Group) -> Iterator[Tensor]:
    """The numbers of each unit in each tensor that it has a slice of: (size, numbers)."""
    for part in group.slices:
        tensor = tensors[part.name]
        if part.select and tensor.is_floating_point() and tensor.numel():
            yield part.by_unit(tensor.detach().float(), group.size)


def unit_matrix(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """(size, numbers) all numbers of each unit, side by side."""
    return torch.cat(list(unit_rows(tensors, group)), dim=1)


def open_units(plan: PruningPlan, values: Values) -> dict[str, list[int]]:
    """The open units of each group: those whose value is not exactly zero. Makes one transfer to the host for all groups.

    ValueError for a group that the plan does not have, and for a group with fewer open units than its minimum.
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
            raise ValueError(f"'{group.name}' needs {group.minimum} open unit(s) and has {len(kept[group.name])}")
    return kept


def gather(tensors: Mapping[str, Tensor], plan: PruningPlan, values: Values) -> dict[str, Tensor]:
    """The tensors of the smaller encoder that differ from `tensors`. Differentiable in `tensors` and `values`."""
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
            if not part.scale or tensor.shape[part.dim] == 0:  # empty: this group or the part that holds it is gone
                continue
            times = tensor.shape[part.dim] // len(value)  # another group may have changed the width of a block
            if part.inside:
                value_of_each = value.repeat(times)
            else:
                value_of_each = value.repeat_interleave(times) if len(value) > 1 and times > 1 else value
            factor = value_of_each.to(tensor.dtype)
            smaller[part.name] = tensor * factor.view([-1 if axis == part.dim else 1 for axis in range(tensor.dim())])
    return smaller


def cut_like(tensors: Mapping[str, Tensor], plan: PruningPlan, kept: Kept) -> dict[str, Tensor]:
    """Removes closed units from `tensors` that are named and shaped like the encoder's own, such as an optimiser's moments.

    Does not scale. A part that is gone leaves empty tensors, which the cut encoder does not have.
    """
    return {**tensors, **_select(tensors, plan, kept, _indices(plan, kept, next(iter(tensors.values())).device))}


def narrow(config: EncoderConfig, plan: PruningPlan, kept: Kept) -> EncoderConfig:
    """The config of the encoder that has only the units in `kept`."""
    for group in plan:
        if group.name in kept:
            config = kind_of(group).narrow(config, group, kept[group.name])
    return config


@torch.no_grad()
def cut(encoder: Encoder, plan: PruningPlan, values: Values) -> Encoder:
    """A new, smaller encoder with the gate values folded into its weights. `encoder` is unchanged.

    A value of 1 for every unit that stays cuts the closed units and leaves the other weights as they are.
    """
    tensors, kept = named_tensors(encoder), open_units(plan, values)
    smaller = {**tensors, **gather(tensors, plan, values)}
    return rebuild(encoder, narrow(encoder.config, plan, kept), {**smaller, **_biases(encoder, smaller)})


def _biases(encoder: Encoder, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The biases of factored layers by the names that they have where nothing but the bias is left of the layer."""
    biases = ((f"{name}.bias", f"{name}.outer.bias") for name, _ in encoder.config.factored)
    return {plain: tensors[outer] for plain, outer in biases if outer in tensors}


def _select(
    tensors: Mapping[str, Tensor], plan: PruningPlan, kept: Kept, index: Mapping[tuple[str, int], Tensor]
) -> dict[str, Tensor]:
    """The tensors that lose units, without the closed units."""
    selected: dict[str, Tensor] = {}
    for group in plan:
        units = kept.get(group.name)
        if units is None or len(units) == group.size:
            continue
        for part in group.slices:
            if not part.select or part.name not in tensors:
                continue
            tensor = selected.get(part.name, tensors[part.name])
            if units and part.inside:
                channels = tensor.unflatten(part.dim, (-1, group.size)).index_select(part.dim + 1, index[group.name, 1])
                selected[part.name] = channels.flatten(part.dim, part.dim + 1)
            elif units:
                selected[part.name] = tensor.index_select(part.dim, index[group.name, part.block])
            else:
                selected[part.name] = tensor.narrow(part.dim, 0, 0)
    return selected


def _indices(plan: PruningPlan, kept: Kept, device: torch.device) -> dict[tuple[str, int], Tensor]:
    """(group, block) -> indices of the open units along an axis, each `block` wide. Makes one transfer to the device for all."""
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
