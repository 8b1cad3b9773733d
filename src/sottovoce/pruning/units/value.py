"""Channels inside attention heads: as many in every head of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sottovoce.core.registry import UNITS
from sottovoce.encoder import Encoder, EncoderConfig, LayerConfig
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Workload, iter_layers, layer_of


class HeadChannels(UnitKind):
    """What both kinds of channels inside heads share. A unit is one channel of every head; preparing sorts the channels of each head, those
    with the largest weights first, so that a unit is the n-th most important channel of all heads.

    field: of `LayerConfig`. pairs: projections whose rows are channels, and those whose columns are. module: the projection whose scale
    carries the gate.
    """

    field: ClassVar[str]
    rows: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]] = ()

    def _layers(self, config: EncoderConfig) -> Iterator[tuple[int, str, LayerConfig]]:
        """The layers that have such channels."""
        return ((i, at, layer) for i, at, layer in iter_layers(config) if layer.attention and layer.num_heads)

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        sizes = {f"{at}.{self.name}": getattr(layer, self.field) for _, at, layer in self._layers(config)}
        return {name: size for name, size in sizes.items() if size}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for name, size in self.sizes(config).items():
            at = self.part_of(name)
            slices = [Slice(f"{at}.{self.name}_channels", 0)]
            for proj in self.rows:
                tensors = ("weight", "bias") if proj in config.attention_bias else ("weight",)
                scale = not self.columns and proj == self.rows[0]
                slices += [Slice(f"{at}.{proj}_proj.{tensor}", 0, scale=scale, inside=True) for tensor in tensors]
            slices += [Slice(f"{at}.{proj}_proj.weight", 1, scale=True, inside=True) for proj in self.columns]
            yield Group(name, self.name, size, tuple(slices), minimum=1, index=layer_of(name))

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        return config.with_layer(group.index, **{self.field: len(kept)})

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        for i, at, layer in self._layers(config):
            if not getattr(layer, self.field) and self.wants(f"{at}.{self.name}"):
                config = config.with_layer(i, **{self.field: layer.head_dim})
        return config

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        state, changed = encoder.state_dict(), {}
        for _, at, layer in self._layers(encoder.config):
            if getattr(layer, self.field) or not self.wants(f"{at}.{self.name}"):
                continue
            parts = {_name(state, at, proj, tensor): 0 for proj in self.rows for tensor in ("weight", "bias")}
            parts |= {_name(state, at, proj, "weight"): 1 for proj in self.columns}
            tensors = {name: (state[name], axis) for name, axis in parts.items() if name in state}
            split = {name: x.movedim(axis, 0).unflatten(0, (layer.num_heads, -1)) for name, (x, axis) in tensors.items()}
            score = torch.stack([x.flatten(2).norm(dim=2) for x in split.values() if x.dim() > 2]).prod(0)
            order = score.argsort(dim=1, descending=True, stable=True)  # (heads, channels)
            for name, x in split.items():
                index = order.view(*order.shape, *[1] * (x.dim() - 2)).expand_as(x)
                changed[name] = x.gather(1, index).flatten(0, 1).movedim(0, tensors[name][1]).contiguous()
        return changed

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        for i, _, layer in iter_layers(config):
            if getattr(layer, self.field) == layer.head_dim:
                config = config.with_layer(i, **{self.field: 0})
        return config

    def part_of(self, group: str) -> str:
        return f"layers.{layer_of(group)}.attention"

    def recost(self, part: PartCost, workload: Workload) -> PartCost:
        group = f"layers.{layer_of(part.name)}.{self.name}"
        if group not in workload.sizes or part.name != self.part_of(group):
            return part
        layer, dim, frames = layer_of(part.name), workload.config.dim, workload.frames
        heads = workload.sizes[f"layers.{workload.config.map_layer(layer)}.head"]
        more = workload.present(part.name) * heads * (workload.sizes[group] - workload.config.layers[layer].head_dim)
        biases = sum(proj in workload.config.attention_bias for proj in self.rows)
        products, scores = 2 * dim * frames, frames * frames  # two projections; scores or weighted sum
        params, macs = more * (2 * dim + biases), more * (products + scores)
        return part.plus(params, macs, {"macs": more * products, "score_macs": more * scores})

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        return dict.fromkeys(self.sizes(config), self.title)

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        return {self.part_of(name): ("", f"{size} {self.name} channels") for name, size in self.sizes(config).items()}


def _name(state: Mapping[str, Tensor], at: str, proj: str, tensor: str) -> str:
    """A projection's tensor, also where it is two factors: rows belong to the outer one, columns to the inner one."""
    plain, factor = f"{at}.attention.{proj}_proj", "inner" if proj == "out" else "outer"
    return f"{plain}.{tensor}" if f"{plain}.weight" in state else f"{plain}.{factor}.{tensor}"


@UNITS.register("value")
class ValueChannels(HeadChannels):
    """Channels of values inside heads, as many in every head of a layer."""

    order = 0  # after the heads
    field = "value_dim"
    rows = ("v",)
    columns = ("out",)
    title = "Value channels"
