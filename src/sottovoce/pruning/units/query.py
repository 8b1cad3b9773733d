"""Channels in which queries and keys are compared."""

from __future__ import annotations

from collections.abc import Iterator

from sottovoce.core.registry import UNITS
from sottovoce.encoder import EncoderConfig, LayerConfig
from sottovoce.pruning.units.value import HeadChannels


@UNITS.register("query")
class QueryChannels(HeadChannels):
    """Channels in which queries and keys are compared, as many in every head of a layer; not where positions turn or read them."""

    order = 0  # after the heads
    field = "query_dim"
    rows = ("q", "k")
    title = "Query channels"

    def _layers(self, config: EncoderConfig) -> Iterator[tuple[int, str, LayerConfig]]:
        if config.distance is None or config.distance.kind == "rotary":  # which turns what queries are made of
            yield from (found for found in super()._layers(config) if not found[2].reuse)
