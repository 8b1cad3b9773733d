"""Whole feed-forward parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.unit import Group, Place, Slice, UnitKind, layer_of
from sottovoce.pruning.units.ffn import feed_forwards, slices


@UNITS.register("feed_forward")
class FeedForwardParts(UnitKind):
    """A whole feed-forward part."""

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {_name(at, part): int(getattr(layer, part)) for _, at, layer, part in feed_forwards(config)}

    def covers(self, config: EncoderConfig) -> Mapping[str, str]:
        return {f"{at}.{part}": _name(at, part) for _, at, _, part in feed_forwards(config)}

    def place(self, group: str) -> Place:
        return (layer_of(group), 3 if group.endswith("1") else 6)  # after its units

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for i, at, layer, part in feed_forwards(config):
            if getattr(layer, part):
                bias = Slice(f"{at}.{part}.down_proj.bias", 0, scale=True, select=False)
                units = slices(f"{at}.{part}") if getattr(layer, f"{part}_dim") else ()
                yield Group(_name(at, part), self.name, 1, (*units, bias), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        part = group.name.split(".")[-1].replace("feed_forward", "ffn")
        return config if kept else config.with_layer(group.index, **{part: False, f"{part}_dim": 0})


def _name(at: str, part: str) -> str:
    return f"{at}.{part.replace('ffn', 'feed_forward')}"
