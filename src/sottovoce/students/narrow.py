"""A thinner and shallower teacher: any width and depth, its most important weights or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.families.base import shapes
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning import Group, cut, full_widths, kinds, make_plan, named_tensors
from sottovoce.pruning.plan import rebuild
from sottovoce.students.base import Joining, Student, own_encoder
from sottovoce.students.layers import chosen, take

# Kinds of units whose number a student may choose -> the field that says how many.
OPTIONS = {kind.name: kind.option for kind in kinds() if kind.option is not None}


@dataclass(frozen=True)
class Sizes(Joining):
    """0, or nothing, for as many as the teacher has. dim: width of the residual stream, a multiple of the position groups.

    start: "cut", the teacher's weights (evenly spaced layers), or "random". Each kind of unit adds the field that it names in
    `UnitKind.option`.
    """

    dim: int = 0
    depth: int = 0
    start: Literal["cut", "random"] = "cut"


@STUDENTS.register("narrow")
class Narrow(Student):
    """The teacher's design with fewer layers, narrower; spaced layers and the units of largest weights, or random weights.

    A unit (head, feed-forward unit, channel) counts as much as the norms of what it reads and of what it writes, multiplied; a
    dimension of the residual stream as much as its share of the norm of every weight that reads or writes it.
    """

    Config: ClassVar[type] = dataclasses.make_dataclass(
        "Config",
        [(name, kind, dataclasses.field(default=default)) for name, kind, default in OPTIONS.values()],
        bases=(Sizes,),
        frozen=True,
    )

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder, want = own_encoder(teacher), self.config
        depth = len(encoder.layers)
        shallower = take(encoder, chosen(depth, want.depth or depth, "spaced"))
        config = self.shape(shallower.config)
        if want.start == "random":
            return want.joined(Encoder(config)).reset_parameters()
        return want.joined(thinner(fewer_units(shallower, config), config.dim))

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """The wanted widths in the teacher's design. ValueError where they cannot be had."""
        for kind in kinds(OPTIONS):
            size = getattr(self.config, OPTIONS[kind.name][0])
            if size:
                config = kind.sized(config, size)
        groups = 1 if config.position is None else config.position.groups
        dim = self.config.dim or config.dim
        if dim > config.dim or dim % groups:
            raise ValueError(f"student.dim={dim} must be at most the teacher's {config.dim} and a multiple of {groups}")
        return dataclasses.replace(config, dim=dim)


def fewer_units(encoder: Encoder, like: EncoderConfig) -> Encoder:
    """The encoder with as many heads, units and channels as `like` has, those of largest weights; its width stays."""
    tensors, wanted = named_tensors(encoder), full_widths(like)
    plan = make_plan(encoder.config, tuple(OPTIONS))
    values = {}
    for group in plan:
        if wanted[group.name] < group.size:
            best = importance(tensors, group).topk(int(wanted[group.name])).indices
            values[group.name] = torch.zeros(group.size).index_fill(0, best, 1.0)
    return cut(encoder, plan, values) if values else encoder


def importance(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """(size,) product over the group's matrices of the norm of each unit's slice."""
    product = torch.ones(group.size)
    for part in group.slices:
        tensor = tensors[part.name]
        if tensor.dim() > 1 and part.select:
            slices = tensor.float().movedim(part.dim, 0).reshape(group.size, -1)
            product = product * slices.norm(dim=1)
    return product


def thinner(encoder: Encoder, dim: int) -> Encoder:
    """The encoder with `dim` dimensions of the residual stream, those of largest weights, in every tensor that has them.

    Where the positional convolution has groups of channels, each group keeps the same ones, so that it stays what it was.
    """
    old, new = encoder.config, dataclasses.replace(encoder.config, dim=dim)
    if dim == old.dim:
        return encoder
    before, after, state = shapes(old), shapes(new), encoder.state_dict()
    axes = {name: [i for i, (x, y) in enumerate(zip(before[name], after[name], strict=True)) if x != y] for name in before}
    groups = 1 if old.position is None else old.position.groups
    score = torch.zeros(old.dim)
    for name, where in axes.items():
        for axis in where:
            if state[name].dim() > 1 and state[name].shape[axis] == old.dim:
                norms = state[name].float().movedim(axis, 0).reshape(old.dim, -1).norm(dim=1)
                score += norms / norms.sum()
    inner = score.view(groups, -1).sum(0).topk(dim // groups).indices.sort().values  # within a group
    outer = (torch.arange(groups)[:, None] * (old.dim // groups) + inner).flatten()
    for name, where in axes.items():
        for axis in where:
            state[name] = state[name].index_select(axis, outer if state[name].shape[axis] == old.dim else inner)
    return rebuild(encoder, new, state)
