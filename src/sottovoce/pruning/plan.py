"""Which tensors move together: the one statement that gates, cost and cut all read.

A group is a list of units (channels, heads, ...) of which any may be closed. It names every place where its units live: the
rows of the weights that produce them, the columns of the weights that consume them. Names are those of the encoder's parameters
and buffers. Which groups there are, each kind of unit says itself (`units/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.unit import Group, kinds


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
    """The groups of the given kinds in an encoder, which may itself be a pruned one; what it does not have gets no group.

    ValueError for an unknown kind (`sottovoce list units` shows them), and for a kind whose units this encoder cannot lose.
    """
    placed = [(kind.place(group.name), group) for kind in kinds(units) for group in kind.groups(config)]
    return PruningPlan(tuple(_in_factors(group, config) for _, group in sorted(placed, key=lambda item: item[0])))


def _in_factors(group: Group, config: EncoderConfig) -> Group:
    """`group` where linear layers are two factors: their rows are the outer factor's, their columns the inner one's."""
    if not config.factored:
        return group
    factored = {name for name, _ in config.factored}
    slices = []
    for part in group.slices:
        layer, _, tensor = part.name.rpartition(".")
        factor = "inner" if part.dim == 1 else "outer"
        slices.append(replace(part, name=f"{layer}.{factor}.{tensor}") if layer in factored else part)
    return replace(group, slices=tuple(slices))


def prepare(encoder: Encoder, units: Sequence[str]) -> Encoder:
    """An encoder of the same function that can be planned for `units`.

    Returns `encoder` itself when there is nothing to do, else a new encoder with copies of its weights.
    """
    for kind in kinds(units):
        config = kind.prepared(encoder.config)
        if config != encoder.config:
            encoder = rebuild(encoder, config, {**encoder.state_dict(), **kind.tensors(encoder)})
    return encoder


def prepare_config(config: EncoderConfig, units: Sequence[str]) -> EncoderConfig:
    """The shape of the encoder that `prepare` returns."""
    for kind in kinds(units):
        config = kind.prepared(config)
    return config


def unprepared_config(config: EncoderConfig) -> EncoderConfig:
    """The shape without what `prepare` added, as far as no unit of it is gone: what a budget counts from."""
    for kind in kinds():
        config = kind.unprepared(config)
    return config


def rebuild(like: Encoder, config: EncoderConfig, state: Mapping[str, Tensor]) -> Encoder:
    """A new encoder of `config` with `state`; device, dtype, mode and frozen parameters as in `like`. Draws no random numbers."""
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(config)
    weight = like.frontend.projection.weight
    encoder.to(weight.device, weight.dtype)
    encoder.load_state_dict({name: state[name].detach() for name in encoder.state_dict()})
    frozen = {name for name, parameter in like.named_parameters() if not parameter.requires_grad}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return encoder.train(like.training)
