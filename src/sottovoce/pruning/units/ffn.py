"""Feed-forward units. The group of a Conformer layer's first feed-forward part is "layers.i.ffn1"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import EncoderConfig, FbankConfig, FrontendConfig, LayerConfig
from sottovoce.pruning.gate_config import GateConfig
from sottovoce.pruning.unit import Group, PartCost, Place, Slice, UnitKind, Width, Workload, iter_layers, layer_of


@UNITS.register("ffn")
class FeedForwardUnits(UnitKind):
    """Units of feed-forward parts."""

    rounded = True
    option = ("ffn_dim", int, 0)

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {f"{at}.{part}": getattr(layer, f"{part}_dim") for _, at, layer, part in feed_forwards(config)}

    def place(self, group: str) -> Place:
        return (layer_of(group), 2 if group.endswith("1") else 5)

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for i, at, layer, part in feed_forwards(config):
            units = getattr(layer, f"{part}_dim")
            if getattr(layer, part) and units:
                yield Group(f"{at}.{part}", self.name, units, slices(f"{at}.{part}"), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        return config.with_layer(group.index, **{f"{group.name.split('.')[-1]}_dim": len(kept)})

    def drop(self, config: GateConfig) -> float:
        return config.drop_ffn

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        for i, at, _, part in feed_forwards(workload.config):
            yield _part(workload, (i, 1 if part == "ffn1" else 2), f"{at}.{part}")

    def timed(self) -> Mapping[str, EncoderConfig]:
        front = FrontendConfig((), fbank=FbankConfig())
        shapes = {dim: (24, dim, 4 * dim, 333) for dim in (192, 768, 1024)}  # few, all, more than all
        return {
            f"ffn-{dim}": EncoderConfig(front, dim, None, tuple(LayerConfig(0, 64, size, attention=False) for size in sizes))
            for dim, sizes in shapes.items()
        }

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        names = {"ffn": "Feed-forward units", "ffn1": "First feed-forward"}
        return {f"{at}.{part}": names[part] for _, at, _, part in feed_forwards(config)}

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        labels = {}
        for i, at, layer, part in feed_forwards(config):
            size = getattr(layer, f"{part}_dim")
            units = (f"{size} units" if size else "constant") if getattr(layer, part) else "removed"
            labels[f"{at}.{part}"] = (f"layer {i + 1} feed-forward{part.removeprefix('ffn')}", units)
        return labels


def feed_forwards(config: EncoderConfig) -> Iterator[tuple[int, str, LayerConfig, str]]:
    """(i, "layers.i", layer config, "ffn" or "ffn1") of every feed-forward part."""
    for i, at, layer in iter_layers(config):
        for part in ("ffn1", "ffn") if layer.kind == "conformer" else ("ffn",):
            yield i, at, layer, part


def slices(at: str) -> tuple[Slice, ...]:
    """The slices of the units of the feed-forward module `at`."""
    return (Slice(f"{at}.up_proj.weight", 0), Slice(f"{at}.up_proj.bias", 0), Slice(f"{at}.down_proj.weight", 1, scale=True))


def _part(workload: Workload, place: Place, name: str) -> PartCost:
    dim, frames, units, present = workload.config.dim, workload.frames, workload.sizes[name], workload.present(name)

    def terms() -> Mapping[str, Width]:
        computed = present * units
        return {"macs": computed * (2 * dim * frames), "outputs": computed * frames, "call": present}

    params = (dim + 1) * units + (units + 1) * dim
    return PartCost(name, "ffn", place, frames, present * params, present * (2 * frames * dim * units), terms)
