"""Whole attention parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.unit import Group, Slice, UnitKind, iter_layers
from sottovoce.pruning.units.head import producers


@UNITS.register("attention")
class AttentionParts(UnitKind):
    """A layer's whole attention, unless other layers take its map."""

    order = 1  # after the heads, because a closed part removes all heads

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        layers = [(at, layer) for i, at, layer in iter_layers(config) if not config.map_takers(i)]
        return {f"{at}.attention": int(layer.attention) for at, layer in layers}

    def covers(self, config: EncoderConfig) -> Mapping[str, str]:
        return {name: name for name in self.sizes(config)}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for i, at, layer in iter_layers(config):
            if layer.attention and not config.map_takers(i):
                slices: list[Slice] = []
                if layer.num_heads:
                    rows, vectors = producers(config, i)
                    slices = [Slice(name, 0) for name in rows + vectors]
                    slices.append(Slice(f"{at}.attention.out_proj.weight", 1, scale=True))
                if "o" in config.attention_bias:
                    slices.append(Slice(f"{at}.attention.out_proj.bias", 0, scale=True, select=False))
                if not slices:  # nothing is left of it
                    continue
                yield Group(f"{at}.attention", self.name, 1, tuple(slices), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        return config if kept else config.with_layer(group.index, attention=False, num_heads=0, heads=())
