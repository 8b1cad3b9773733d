"""A narrower and shallower copy of the teacher, of any width and depth, with its most important weights or random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning import Group, cut, full_widths, kinds, make_plan, named_tensors
from sottovoce.pruning.dims import Dims
from sottovoce.pruning.plan import rebuild
from sottovoce.students.base import Joining, Student, own_encoder, sharing_maps
from sottovoce.students.layers import chosen, take

# Kinds of units whose number can be set -> (field, type, default).
OPTIONS = {kind.name: kind.option for kind in kinds() if kind.option is not None}


@dataclass(frozen=True)
class Sizes(Joining):
    """Sizes of the student; 0 or an empty list: the teacher's. Each kind of unit adds its field `UnitKind.option`.

    dim: width of the residual stream, a multiple of the position groups. start: "cut", the teacher's weights (evenly spaced layers), or
    "random". share_maps: so many layers in a row share the attention map of the first (2 in ARMHuBERT).
    """

    dim: int = 0
    depth: int = 0
    start: Literal["cut", "random"] = "cut"
    share_maps: int = 1


@STUDENTS.register("narrow")
class Narrow(Student):
    """The teacher with fewer layers and units: evenly spaced layers and the most important units, or random weights.

    The importance of a unit (head, feed-forward unit, channel) is the product of the norms of its input and output weights; that of a
    dimension of the residual stream is the sum of its shares in the norms of all weights that read or write it.
    """

    Config: ClassVar[type] = dataclasses.make_dataclass(
        "Config",
        [(name, kind, dataclasses.field(default=default)) for name, kind, default in OPTIONS.values()],
        bases=(Sizes,),
        frozen=True,
    )

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder, options = own_encoder(teacher), self.config
        depth = len(encoder.layers)
        shallower = take(encoder, chosen(depth, options.depth or depth, "spaced"))
        config = self.shape(shallower.config)
        if options.start == "random":
            config = dataclasses.replace(config, sinusoids=config.sinusoids and config.dim)  # a table of its own
            config = dataclasses.replace(config, layers=sharing_maps(config.layers, options.share_maps))
            return options.fitted(Encoder(config)).reset_parameters()
        return options.fitted(shared(thinner(fewer_units(shallower, config), config.dim), options.share_maps))

    def shape(self, config: EncoderConfig) -> EncoderConfig:
        """The teacher's config with the student's sizes. ValueError if the teacher does not allow them."""
        for kind in kinds(OPTIONS):
            size = getattr(self.config, OPTIONS[kind.name][0])
            if size:
                config = kind.sized(config, size)
        groups = 1 if config.position is None else config.position.groups
        dim = self.config.dim or config.dim
        if dim > config.dim or dim % groups:
            raise ValueError(f"student.dim={dim} must be at most the teacher's {config.dim} and a multiple of {groups}")
        return dataclasses.replace(config, dim=dim)


def shared(encoder: Encoder, count: int) -> Encoder:
    """The encoder in which each `count` layers share the attention map of their first; its others lose queries and keys."""
    config = dataclasses.replace(encoder.config, layers=sharing_maps(encoder.config.layers, count))
    return encoder if config == encoder.config else rebuild(encoder, config, encoder.state_dict())


def fewer_units(encoder: Encoder, like: EncoderConfig) -> Encoder:
    """The encoder with as many heads, feed-forward units and channels as `like`, the most important ones. Its width is unchanged."""
    tensors, counts = named_tensors(encoder), full_widths(like)
    plan = make_plan(encoder.config, tuple(OPTIONS))
    values = {}
    for group in plan:
        if counts[group.name] < group.size:
            best = importance(tensors, group).topk(int(counts[group.name])).indices
            values[group.name] = torch.zeros(group.size).index_fill(0, best, 1.0)
    return cut(encoder, plan, values) if values else encoder


def importance(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """(size,) importance of each unit: the product over the group's matrices of the norm of its slice."""
    product = torch.ones(group.size)
    for part in group.slices:
        tensor = tensors[part.name]
        if tensor.dim() > 1 and part.select:
            slices = tensor.float().movedim(part.dim, 0).reshape(group.size, -1)
            product = product * slices.norm(dim=1)
    return product


def thinner(encoder: Encoder, dim: int) -> Encoder:
    """The encoder with the `dim` most important dimensions of the residual stream.

    Every channel group of the positional convolution keeps the same places, so that its structure stays.
    """
    old, state = encoder.config, encoder.state_dict()
    if dim == old.dim:
        return encoder
    dims = Dims(old, dim)
    score = torch.zeros(old.dim)
    for name, axes in dims.axes.items():
        for axis in axes:
            if state[name].dim() > 1 and state[name].shape[axis] == old.dim:
                norms = state[name].float().movedim(axis, 0).reshape(old.dim, -1).norm(dim=1)
                score += norms / norms.sum()
    places = score.view(dims.groups, -1).sum(0).topk(dim // dims.groups).indices.sort().values
    return rebuild(encoder, dims.config, {**state, **dims.select(state, places)})
