"""Channel groups of the positional convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.core.registry import UNITS
from sottovoce.encoder import Encoder, EncoderConfig, PositionConfig
from sottovoce.pruning.unit import Group, PartCost, Place, Slice, UnitKind, Width, Workload, any_unit


@UNITS.register("position")
class PositionGroups(UnitKind):
    """Channel groups of the positional convolution. Preparing adds a scale per group."""

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        position = config.position
        if position is None:
            return {}
        return {"position": position.groups if position.kept is None else len(position.kept)}

    def place(self, group: str) -> Place:
        return (-1, 1)

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        position = config.position
        if position is None:
            return
        if position.depth != 1:
            raise ValueError(
                f"cannot prune 'position': this encoder has {position.depth} convolutions in a row; remove it from pruning.units"
            )
        if position.kept is None:
            raise ValueError(
                "cannot prune 'position' of an encoder without a scale per channel group; call prepare(encoder, units) first"
            )
        if not position.kept:
            return
        width = config.dim // position.groups
        slices = (
            Slice("position.convs.0.weight", 0, width),
            Slice("position.convs.0.bias", 0, width),
            Slice("position.channels", 0, width),
            Slice("position.scale", 0, scale=True),
        )
        yield Group("position", self.name, len(position.kept), slices)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        assert config.position is not None
        assert config.position.kept is not None
        return _with_groups(config, config.position, tuple(config.position.kept[unit] for unit in kept))

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        position = config.position
        if position is None or position.kept is not None or position.depth != 1:
            return config
        return _with_groups(config, position, tuple(range(position.groups)))

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        assert encoder.config.position is not None
        return {"position.scale": torch.ones(encoder.config.position.groups)}

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        position = config.position
        if position is None or position.kept is None or len(position.kept) < position.groups:
            return config
        return _with_groups(config, position, None)

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        position, frames = workload.config.position, workload.frames
        if position is None:
            return
        units, size, kernel = workload.sizes["position"], workload.config.dim // position.groups, position.kernel
        scales = 0 if position.kept is None else units
        padded = frames + 1 - kernel % 2  # an even kernel computes one frame too many
        weights = units * (size * size * kernel * position.depth)
        params = weights + units * (size * position.depth) + scales

        def terms() -> Mapping[str, Width]:
            outputs = size * position.depth * frames
            return {"macs": units * (size * kernel * outputs), "outputs": units * outputs, "call": any_unit(units)}

        yield PartCost("position", "position", (-1, 3), frames, params, weights * padded, terms)

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        return {} if config.position is None or config.position.kept is None else {"position": "Position groups"}


def _with_groups(config: EncoderConfig, position: PositionConfig, kept: tuple[int, ...] | None) -> EncoderConfig:
    return dataclasses.replace(config, position=dataclasses.replace(position, kept=kept))
