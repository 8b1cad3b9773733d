"""Which tensors move together: the one statement that gates, cost and cut all read.

A group is a list of units (channels, heads, ...) of which any may be closed. It names every place where its units live: the
rows of the weights that produce them, the columns of the weights that consume them. Names are those of the encoder's parameters
and buffers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sottovoce.core.registry import suggestion
from sottovoce.encoder import Encoder, EncoderConfig, PositionConfig

KINDS = ("conv", "head", "ffn", "glu", "attention", "feed_forward", "position")


@dataclass(frozen=True)
class Slice:
    """Where the units of a group live in one tensor or buffer `name`: unit u is ``[u * block, (u + 1) * block)`` of axis `dim`.

    The one unit of a group of size 1 is the whole axis. scale: the consumer, whose entries are multiplied by the units' gate
    values. select: ``False`` where a closed unit leaves zeros, not a gap (the bias of a part that is gated as a whole).
    """

    name: str
    dim: int
    block: int = 1
    scale: bool = False
    select: bool = True


@dataclass(frozen=True)
class Group:
    """`size` units of one `kind` (see KINDS), of which `minimum` must stay. index: number of the convolution or layer."""

    name: str
    kind: str
    size: int
    slices: tuple[Slice, ...]
    minimum: int = 0
    index: int = 0


@dataclass(frozen=True)
class Plan:
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


def check_units(units: Sequence[str]) -> None:
    """ValueError for a kind of unit that does not exist."""
    for unit in units:
        if unit not in KINDS:
            raise ValueError(f"cannot prune '{unit}'{suggestion(unit, KINDS)} (known: {', '.join(KINDS)})")


def make_plan(config: EncoderConfig, units: Sequence[str]) -> Plan:
    """The groups of the given kinds in an encoder, which may itself be a pruned one; what it does not have gets no group.

    Kinds: "conv" channels of each front-end convolution, "head", "ffn" units, "glu" channels of a Conformer's convolution module,
    whole "attention" and "feed_forward" parts, channel groups of the "position" convolution. The first feed-forward part of a
    Conformer layer has the groups "layers.i.ffn1" and "layers.i.feed_forward1".

    ValueError for an unknown kind, and for "position" where it cannot be done.
    """
    check_units(units)
    groups: list[Group] = []
    if "conv" in units:
        groups += _convs(config)
    if "position" in units and config.position is not None:
        groups += _position(config.position, config.dim)
    for index in range(len(config.layers)):
        groups += [group for group in _layer(config, index) if group.kind in units]
    return Plan(tuple(groups))


def prepare(encoder: Encoder, units: Sequence[str]) -> Encoder:
    """An encoder of the same function that can be planned for `units`: "position" needs a scale per channel group.

    Returns `encoder` itself when there is nothing to do, else a new encoder with copies of its weights.
    """
    config = prepare_config(encoder.config, units)
    if config == encoder.config:
        return encoder
    assert config.position is not None
    scale = torch.ones(config.position.groups)
    return rebuild(encoder, config, {**encoder.state_dict(), "position.scale": scale})


def prepare_config(config: EncoderConfig, units: Sequence[str]) -> EncoderConfig:
    """The shape of the encoder that `prepare` returns."""
    position = config.position
    if "position" not in units or position is None or position.kept is not None or position.depth != 1:
        return config
    return dataclasses.replace(config, position=dataclasses.replace(position, kept=tuple(range(position.groups))))


def rebuild(like: Encoder, config: EncoderConfig, state: dict[str, torch.Tensor]) -> Encoder:
    """A new encoder of `config` with `state`; device, dtype, mode and frozen parameters as in `like`. Draws no random numbers."""
    with torch.random.fork_rng(devices=[]):
        made = Encoder(config)
    weight = like.frontend.projection.weight
    made.to(weight.device, weight.dtype)
    made.load_state_dict({name: state[name].detach() for name in made.state_dict()})
    frozen = {name for name, parameter in like.named_parameters() if not parameter.requires_grad}
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return made.train(like.training)


def _convs(config: EncoderConfig) -> list[Group]:
    frontend, groups = config.frontend, []
    for i, conv in enumerate(frontend.convs):
        at = f"frontend.convs.{i}"
        slices = [Slice(f"{at}.conv.weight", 0)]
        if frontend.bias:
            slices.append(Slice(f"{at}.conv.bias", 0))
        if frontend.norm == "layer" or (frontend.norm == "group" and i == 0):
            slices += [Slice(f"{at}.norm.weight", 0), Slice(f"{at}.norm.bias", 0)]
        if i + 1 < len(frontend.convs):
            slices.append(Slice(f"frontend.convs.{i + 1}.conv.weight", 1, scale=True))
        else:
            # The gate stands after the layer norm, on the projection's columns. Before it, as in the reference, a gate value
            # would change the statistics of all channels and could only be kept as an extra vector ("dummy_weight").
            if frontend.projection_norm:
                slices += [Slice("frontend.norm.weight", 0), Slice("frontend.norm.bias", 0)]
            slices.append(Slice("frontend.projection.weight", 1, frontend.join, scale=True))
        groups.append(Group(at, "conv", conv.dim, tuple(slices), minimum=1, index=i))
    return groups


def _position(position: PositionConfig, dim: int) -> list[Group]:
    if position.depth != 1:
        raise ValueError(
            f"cannot prune 'position': this encoder has {position.depth} convolutions in a row; leave it out of the units"
        )
    if position.kept is None:
        raise ValueError(
            "cannot prune 'position' of an encoder without a scale per channel group; call prepare(encoder, units) first"
        )
    if not position.kept:
        return []
    width = dim // position.groups
    slices = (
        Slice("position.convs.0.weight", 0, width),
        Slice("position.convs.0.bias", 0, width),
        Slice("position.channels", 0, width),
        Slice("position.scale", 0, scale=True),
    )
    return [Group("position", "position", len(position.kept), slices)]


def _layer(config: EncoderConfig, index: int) -> list[Group]:
    layer, at, groups = config.layers[index], f"layers.{index}", []
    if layer.attention:
        rows = [f"{at}.attention.{name}_proj.{tensor}" for name in "qkv" for tensor in ("weight", "bias")]
        heads = [f"{at}.attention.gate.const", f"{at}.attention.gate.heads"] if config.relative is not None else []
        if config.distance is not None and config.distance.kind == "sinusoid":
            rows.append(f"{at}.attention.distance.proj.weight")
            heads += [f"{at}.attention.distance.u", f"{at}.attention.distance.v"]
        out = f"{at}.attention.out_proj"
        if layer.num_heads:
            slices = [Slice(name, 0, layer.head_dim) for name in rows] + [Slice(name, 0) for name in heads]
            slices.append(Slice(f"{out}.weight", 1, layer.head_dim, scale=True))
            groups.append(Group(f"{at}.head", "head", layer.num_heads, tuple(slices), index=index))
        # after the heads: a closed part takes whatever heads are left
        whole = [Slice(name, 0) for name in rows + heads] + [Slice(f"{out}.weight", 1, scale=True)] if layer.num_heads else []
        whole.append(Slice(f"{out}.bias", 0, scale=True, select=False))
        groups.append(Group(f"{at}.attention", "attention", 1, tuple(whole), index=index))
    if layer.kind == "conformer":
        if layer.ffn1:
            groups += _feed_forward(at, "1", layer.ffn1_dim, index)
        if layer.glu_dim:
            groups.append(_glu(f"{at}.convolution", f"{at}.glu", layer.glu_dim, index, config.convolution.norm == "batch"))
    if layer.ffn:
        groups += _feed_forward(at, "", layer.ffn_dim, index)
    return groups


def _feed_forward(at: str, number: str, width: int, index: int) -> list[Group]:
    up, down = f"{at}.ffn{number}.up_proj", f"{at}.ffn{number}.down_proj"
    units = [Slice(f"{up}.weight", 0), Slice(f"{up}.bias", 0), Slice(f"{down}.weight", 1, scale=True)] if width else []
    groups = [Group(f"{at}.ffn{number}", "ffn", width, tuple(units), index=index)] if units else []
    units.append(Slice(f"{down}.bias", 0, scale=True, select=False))
    return [*groups, Group(f"{at}.feed_forward{number}", "feed_forward", 1, tuple(units), index=index)]


def _glu(at: str, name: str, width: int, index: int, fixed: bool) -> Group:
    # The gate stands behind norm and activation, on the last projection's columns: the norm is over the channels that are left.
    vectors = ["weight", "bias", "mean", "variance"] if fixed else ["weight", "bias"]
    slices = [Slice(f"{at}.in_proj.weight", 0, 2), Slice(f"{at}.depthwise.weight", 0)]
    slices += [Slice(f"{at}.norm.{vector}", 0) for vector in vectors]
    slices.append(Slice(f"{at}.out_proj.weight", 1, scale=True))
    return Group(name, "glu", width, tuple(slices), index=index)
