"""Attention heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import DistanceConfig, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig, RelativeConfig
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Width, Workload, any_unit, iter_layers


@UNITS.register("head")
class Heads(UnitKind):
    """Attention heads; where layers take the map of another layer, a head is one of all of them."""

    order = 0
    option = ("heads", int, 0)
    title = "Attention heads"

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {f"{at}.head": layer.num_heads for _, at, layer in iter_layers(config) if not layer.reuse}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for i, at, layer in iter_layers(config):
            if layer.attention and layer.num_heads and not layer.reuse:
                slices = []
                for each in (i, *config.map_takers(i)):
                    shape, part = config.layers[each], f"layers.{each}.attention"
                    rows, vectors = producers(config, each)
                    widths = {"q_proj": shape.query_width, "k_proj": shape.query_width, "v_proj": shape.value_width}
                    slices += [Slice(name, 0, widths.get(name.split(".")[-2], shape.head_dim)) for name in rows]
                    slices += [Slice(name, 0) for name in vectors]
                    slices.append(Slice(f"{part}.out_proj.weight", 1, shape.value_width, scale=True))
                yield Group(f"{at}.head", self.name, layer.num_heads, tuple(slices), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        layers = list(config.layers)
        for i in (group.index, *config.map_takers(group.index)):
            heads = tuple(layers[i].heads[unit] for unit in kept) if layers[i].heads else ()
            layers[i] = dataclasses.replace(layers[i], num_heads=len(kept), heads=heads)
        return dataclasses.replace(config, layers=tuple(layers))

    def part_of(self, group: str) -> str:
        return group.removesuffix(".head") + ".attention"

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        for i, at, layer in iter_layers(workload.config):
            heads: Width = workload.sizes[f"layers.{workload.config.map_layer(i)}.head"] if layer.attention else 0
            yield _part(workload, i, f"{at}.attention", heads, layer.head_dim)

    def timed(self) -> Mapping[str, EncoderConfig]:
        front, shapes = FrontendConfig((), fbank=FbankConfig()), {}
        for dim in (192, 768, 1024):
            sizes = ((1, 32), (dim // 64, 64), (max(1, dim // 128), 64), (3, 64))  # few, all
            plain = tuple(LayerConfig(heads, width, 0, ffn=False) for heads, width in sizes)
            tables = tuple(dataclasses.replace(layer, heads=tuple(range(layer.num_heads))) for layer in plain)
            shapes[f"attention-{dim}"] = EncoderConfig(front, dim, None, plain)
            shapes[f"relative-{dim}"] = EncoderConfig(front, dim, None, tables, relative=RelativeConfig(320, 800, dim // 64))
            for kind in ("key", "sinusoid", "rotary", "rotary_heads"):
                distance = DistanceConfig(kind, left=64, right=8, width=32 if kind == "rotary_heads" else 0)
                shapes[f"{kind}-{dim}"] = EncoderConfig(front, dim, None, plain, distance=distance, norm_first=True)
        return shapes

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        labels = {}
        for i, at, layer in iter_layers(config):
            heads = f"{layer.num_heads} heads of {layer.head_dim}" if layer.num_heads else "constant"
            heads += f", map of layer {config.map_layer(i) + 1}" if layer.reuse else ""
            labels[f"{at}.attention"] = (f"layer {i + 1} attention", heads if layer.attention else "removed")
        return labels


def producers(config: EncoderConfig, index: int) -> tuple[list[str], list[str]]:
    """Tensors of the attention of layer `index` that produce heads: (those with `head_dim` rows per head, those with one)."""
    at, reuse = f"layers.{index}.attention", config.layers[index].reuse
    tensors = {name: ("weight", "bias") if name in config.attention_bias else ("weight",) for name in ("v" if reuse else "qkv")}
    rows = [f"{at}.{name}_proj.{tensor}" for name in tensors for tensor in tensors[name]]
    if reuse:
        return rows, []
    vectors = [f"{at}.gate.const", f"{at}.gate.heads"] if config.relative is not None else []
    if config.distance is not None and config.distance.kind == "sinusoid":
        rows.append(f"{at}.distance.proj.weight")
        vectors += [f"{at}.distance.u", f"{at}.distance.v"]
    return rows, vectors


def _part(workload: Workload, layer: int, name: str, heads: Width, width: int) -> PartCost:
    """The cost of attention with `heads` heads of `width`."""
    dim, frames, distance, present = workload.config.dim, workload.frames, workload.config.distance, workload.present(name)
    style = "relative" if workload.config.relative is not None else distance.kind if distance is not None else ""
    size = heads * width
    made = "v" if workload.config.layers[layer].reuse else "qkv"  # projections into the heads
    style = "" if made == "v" else style
    params = len(made) * (dim + 1) * size + (size + 1) * dim
    if missing := sum(name not in workload.config.attention_bias for name in made):
        params = params - missing * size
    if "o" not in workload.config.attention_bias:
        params = params - dim
    products = 1 + (made == "qkv")  # scores, if it computes them, and weighted sum
    macs = size * frames * ((len(made) + 1) * dim + products * frames)
    if style == "relative":  # a gate per head; the heads share its projection
        params = params + heads + any_unit(heads) * 8 * (width + 1)
        macs = macs + size * frames * 2
    elif style == "key" and distance is not None:  # one vector per distance, shared by the heads
        vectors = distance.left + distance.right + 1
        params = params + any_unit(heads) * vectors * width
        macs = macs + size * frames * vectors
    elif style == "sinusoid":
        params = params + size * (dim + 2)
        macs = macs + size * (2 * frames - 1) * (dim + frames)

    def terms() -> Mapping[str, Width]:
        computed = present * heads
        scores = computed * (frames * frames)
        return {
            "macs": computed * ((len(made) + 1) * width * dim * frames),
            "score_macs": scores * (products * width),
            "scores": scores * (products - 1),  # the softmax
            "call": present,
        }

    kind = f"attention.{style}" if style else "attention"
    return PartCost(name, kind, (layer, 0), frames, present * params, present * macs, terms)
