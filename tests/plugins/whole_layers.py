"""A kind of unit from outside the package: attention and last feed-forward part of a layer, which go together or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import Group, UnitKind
from sottovoce.pruning.unit import iter_layers, kinds


@UNITS.register("layer")
class Layers(UnitKind):
    """The parts of a layer, as one, unless other layers take its attention map."""

    order = 9
    title = "Layer"

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        layers = [(at, layer) for i, at, layer in iter_layers(config) if not config.map_takers(i)]
        return {f"{at}.layer": int(layer.attention or layer.ffn) for at, layer in layers}

    def covers(self, config: EncoderConfig) -> Mapping[str, str]:
        return {f"{name.removesuffix('.layer')}.{part}": name for name in self.sizes(config) for part in ("attention", "ffn")}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        parts = {group.name: group for kind in kinds(("attention", "feed_forward")) for group in kind.groups(config)}
        for i, at, _ in iter_layers(config):
            there = [parts[name] for name in (f"{at}.attention", f"{at}.feed_forward") if name in parts]
            if there and not config.map_takers(i):
                yield Group(f"{at}.layer", self.name, 1, tuple(part for group in there for part in group.slices), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        nothing = {"attention": False, "num_heads": 0, "heads": (), "ffn": False, "ffn_dim": 0}
        return config if kept else config.with_layer(group.index, **nothing)

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        return {f"{at}.ffn": ("", f"layer {'kept' if layer.ffn else 'gone'}") for _, at, layer in iter_layers(config)}
