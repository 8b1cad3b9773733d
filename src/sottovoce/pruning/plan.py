"""The pruning plan: which slices of which tensors belong to each unit. Gates, cost and cut all read it.

A group is a list of units (channels, heads, ...) of which any may be closed. Its slices are the rows of the weights that produce the
units and the columns of the weights that consume them, by the names of the encoder's parameters and buffers. Each kind of unit
(`units/`) gives its groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.unit import Group, kinds, layer_of


@dataclass(frozen=True)
class PruningPlan:
    """All groups, in the order of the model."""

    groups: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)


def make_plan(config: EncoderConfig, units: Sequence[str]) -> PruningPlan:
    """The groups of the given kinds in an encoder, which may be pruned already; parts that it does not have get no group.

    units: names of kinds, with a pattern of groups if not all of them are meant (see `kinds`). ValueError for an unknown kind (see
    `sottovoce list units`) and for a kind that cannot be pruned in this encoder.
    """
    placed = [(kind.place(group.name), group) for kind in kinds(units) for group in kind.groups(config) if kind.wants(group.name)]
    return PruningPlan(tuple(_in_factors(group, config) for _, group in sorted(placed, key=lambda item: item[0])))


def _in_factors(group: Group, config: EncoderConfig) -> Group:
    """`group` for an encoder with factored linear layers: rows belong to the outer factor, columns to the inner one."""
    if not config.factored:
        return group
    factored = {name for name, _ in config.factored if not _without_units(config, name)}
    slices = []
    for part in group.slices:
        layer, _, tensor = part.name.rpartition(".")
        factor = "inner" if part.dim == 1 else "outer"
        slices.append(replace(part, name=f"{layer}.{factor}.{tensor}") if layer in factored else part)
    return replace(group, slices=tuple(slices))


def _without_units(config: EncoderConfig, name: str) -> bool:
    """Whether the projection `name` belongs to a part that has lost all its units; of such a part only a bias is left."""
    if layer_of(name) < 0:
        return False
    layer, part = config.layers[layer_of(name)], name.split(".")[2]
    units = {"attention": layer.num_heads, "ffn": layer.ffn_dim, "ffn1": layer.ffn1_dim, "convolution": layer.glu_dim}
    return units.get(part) == 0


def prepare(encoder: Encoder, units: Sequence[str]) -> Encoder:
    """An equivalent encoder that `make_plan` accepts for `units`: `encoder` itself, or a new one with copies of its weights."""
    for kind in kinds(units):
        config = kind.prepared(encoder.config)
        if config != encoder.config:
            encoder = rebuild(encoder, config, {**encoder.state_dict(), **kind.tensors(encoder)})
    return encoder


def prepare_config(config: EncoderConfig, units: Sequence[str]) -> EncoderConfig:
    """The config of the encoder that `prepare` returns."""
    for kind in kinds(units):
        config = kind.prepared(config)
    return config


def unprepared_config(config: EncoderConfig) -> EncoderConfig:
    """The config without what `prepare` added, unless some of its units are gone. Budgets count from it."""
    for kind in kinds():
        config = kind.unprepared(config)
    return config


def rebuild(like: Encoder, config: EncoderConfig, state: Mapping[str, Tensor]) -> Encoder:
    """A new encoder of `config` with the weights `state`; device, dtype, mode and frozen parameters are those of `like`.

    Draws no random numbers."""
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(config)
    weight = like.frontend.projection.weight
    encoder.to(weight.device, weight.dtype)
    encoder.load_state_dict({name: state[name].detach() for name in encoder.state_dict()})
    frozen = {name for name, parameter in like.named_parameters() if not parameter.requires_grad}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return encoder.train(like.training)
