"""A thinner and shallower teacher: any width and depth, its most important weights or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig
from sottovoce.families.base import shapes
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning import Group, cut, make_plan
from sottovoce.pruning.apply import named_tensors
from sottovoce.pruning.cost import full_widths
from sottovoce.pruning.plan import rebuild
from sottovoce.students.base import Joining, Student, own_encoder
from sottovoce.students.layers import chosen, take

UNITS = ("conv", "head", "ffn", "glu")  # whose number a student may choose


@STUDENTS.register("narrow")
class Narrow(Student):
    """The teacher's design with fewer layers, narrower; spaced layers and the units of largest weights, or random weights.

    A unit (head, feed-forward unit, channel) counts as much as the norms of what it reads and of what it writes, multiplied; a
    dimension of the residual stream as much as its share of the norm of every weight that reads or writes it.
    """

    @dataclass(frozen=True)
    class Config(Joining):
        """0, or nothing, for as many as the teacher has. dim: width of the residual stream, a multiple of the position groups.

        glu_dim: channels of Conformer convolutions. conv_dims: channels of the waveform front end. start: "cut", the teacher's
        weights (evenly spaced layers), or "random".
        """

        dim: int = 0
        depth: int = 0
        heads: int = 0
        ffn_dim: int = 0
        glu_dim: int = 0
        conv_dims: tuple[int, ...] = ()
        start: Literal["cut", "random"] = "cut"

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder, want = own_encoder(teacher), self.config
        depth = len(encoder.layers)
        made = take(encoder, chosen(depth, want.depth or depth, "spaced"))
        config = self.shape(made.config)
        if want.start == "random":
            return want.joined(Encoder(config)).reset_parameters()
        return want.joined(thinner(fewer_units(made, config), config.dim))

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """The wanted widths in the teacher's design. ValueError where they cannot be had."""
        want: Narrow.Config = self.config
        layers = []
        for layer in config.layers:
            wanted = {"num_heads": want.heads, "ffn_dim": want.ffn_dim, "ffn1_dim": want.ffn_dim, "glu_dim": want.glu_dim}
            sizes: dict[str, Any] = {}
            for name, size in wanted.items():
                there = getattr(layer, name)
                if size > there > 0:
                    raise ValueError(f"the student cannot have {name}={size}: the teacher has {there}")
                sizes[name] = size if size and there else there
            heads = layer.heads[: sizes["num_heads"]]
            layers.append(dataclasses.replace(layer, heads=heads, **sizes))
        groups = 1 if config.position is None else config.position.groups
        dim = want.dim or config.dim
        if dim > config.dim or dim % groups:
            raise ValueError(f"student.dim={dim} must be at most the teacher's {config.dim} and a multiple of {groups}")
        convs = config.frontend.convs
        if want.conv_dims:
            if len(want.conv_dims) != len(convs) or any(
                mine > conv.dim for mine, conv in zip(want.conv_dims, convs, strict=True)
            ):
                raise ValueError(f"student.conv_dims must be {len(convs)} numbers, at most {[conv.dim for conv in convs]}")
            convs = tuple(ConvConfig(mine, conv.kernel, conv.stride) for mine, conv in zip(want.conv_dims, convs, strict=True))
        frontend = dataclasses.replace(config.frontend, convs=convs)
        return dataclasses.replace(config, frontend=frontend, dim=dim, layers=tuple(layers))


def fewer_units(encoder: Encoder, like: EncoderConfig) -> Encoder:
    """The encoder with as many heads, units and channels as `like` has, those of largest weights; its width stays."""
    tensors, wanted = named_tensors(encoder), full_widths(like)
    plan = make_plan(encoder.config, UNITS)
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
