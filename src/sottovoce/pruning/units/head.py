"""Attention heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import DistanceConfig, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig, RelativeConfig
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Width, Workload, any_unit, iter_layers


@UNITS.register("head")
class Heads(UnitKind):
    """Attention heads."""

    order = 0
    option = ("heads", int, 0)
    title = "Attention heads"

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {f"{at}.head": layer.num_heads for _, at, layer in iter_layers(config)}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for i, at, layer in iter_layers(config):
            if layer.attention and layer.num_heads:
                rows, vectors = producers(config, f"{at}.attention")
                slices = [Slice(name, 0, layer.head_dim) for name in rows] + [Slice(name, 0) for name in vectors]
                slices.append(Slice(f"{at}.attention.out_proj.weight", 1, layer.head_dim, scale=True))
                yield Group(f"{at}.head", self.name, layer.num_heads, tuple(slices), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        layer = config.layers[group.index]
        heads = tuple(layer.heads[unit] for unit in kept) if layer.heads else ()
        return config.with_layer(group.index, num_heads=len(kept), heads=heads)

    def part_of(self, group: str) -> str:
        return group.removesuffix(".head") + ".attention"

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        for i, at, layer in iter_layers(workload.config):
            yield _part(workload, i, f"{at}.attention", workload.sizes[f"{at}.head"], layer.head_dim)

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
            labels[f"{at}.attention"] = (f"layer {i + 1} attention", heads if layer.attention else "removed")
        return labels


def producers(config: EncoderConfig, at: str) -> tuple[list[str], list[str]]:
    """Tensors of the attention module `at` that produce heads: (those with `head_dim` rows per head, those with one)."""
    tensors = {name: ("weight", "bias") if name in config.attention_bias else ("weight",) for name in "qkv"}
    rows = [f"{at}.{name}_proj.{tensor}" for name in "qkv" for tensor in tensors[name]]
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
    params = 3 * (dim + 1) * size + (size + 1) * dim
    if missing := 3 - sum(name in workload.config.attention_bias for name in "qkv"):
        params = params - missing * size
    if "o" not in workload.config.attention_bias:
        params = params - dim
    macs = size * frames * (4 * dim + 2 * frames)  # projections; scores and weighted sum
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
            "macs": computed * (4 * width * dim * frames),
            "score_macs": scores * (2 * width),
            "scores": scores,
            "call": present,
        }

    kind = f"attention.{style}" if style else "attention"
    return PartCost(name, kind, (layer, 0), frames, present * params, present * macs, terms)
