"""A kind of unit from outside the package: the rank of every feed-forward part's first projection.

W = U S V is prepared as two factors, U sqrt(S) and sqrt(S) V, and every singular direction gets a gate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sottovoce.core.registry import UNITS
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import Group, PartCost, Slice, UnitKind, Workload
from sottovoce.pruning.unit import any_unit, iter_layers, layer_of


@UNITS.register("rank")
class Ranks(UnitKind):
    """Singular directions of the first feed-forward projection."""

    order = 7
    title = "Rank of the first projection"

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {f"{at}.rank": dict(config.factored)[name] for at, name in projections(config) if name in dict(config.factored)}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for group, size in self.sizes(config).items():
            at = f"{group.removesuffix('rank')}ffn.up_proj"
            slices = (Slice(f"{at}.inner.weight", 0), Slice(f"{at}.outer.weight", 1, scale=True))
            yield Group(group, self.name, size, slices, minimum=1, index=layer_of(group))

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        name = f"{group.name.removesuffix('rank')}ffn.up_proj"
        ranks = {**dict(config.factored), name: len(kept)}
        return dataclasses.replace(config, factored=tuple(ranks.items()))

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        if config.factored:
            return config
        full = {name: min(config.dim, config.layers[layer_of(name)].ffn_dim) for _, name in projections(config)}
        return dataclasses.replace(config, factored=tuple(full.items()))

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        state, factors = encoder.state_dict(), {}
        for _, name in projections(encoder.config):
            u, s, v = torch.linalg.svd(state[f"{name}.weight"], full_matrices=False)
            factors[f"{name}.outer.weight"], factors[f"{name}.inner.weight"] = u * s.sqrt(), s.sqrt()[:, None] * v
            factors[f"{name}.outer.bias"] = state[f"{name}.bias"]
        return factors

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        plain = dataclasses.replace(config, factored=())
        return plain if self.prepared(plain) == config else config

    def recost(self, part: PartCost, workload: Workload) -> PartCost:
        group = f"{part.name.removesuffix('ffn')}rank"
        if group not in workload.sizes or not part.name.endswith("ffn"):
            return part
        dim, units, rank = workload.config.dim, workload.sizes[part.name], workload.sizes[group]
        present, frames = workload.present(part.name), workload.frames
        change = present * (rank * (any_unit(units) * dim + units) - dim * units)  # two factors in place of one matrix
        outputs = present * any_unit(units) * rank * frames
        return part.plus(change, change * frames, {"macs": change * frames, "outputs": outputs})

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        labels = {}
        for group, size in self.sizes(config).items():
            i = layer_of(group)
            labels[f"layers.{i}.ffn"] = (f"layer {i + 1} feed-forward", f"{config.layers[i].ffn_dim} units of rank {size}")
        return labels


def projections(config: EncoderConfig) -> Iterator[tuple[str, str]]:
    """("layers.number", name of the projection) of every feed-forward part that is there."""
    return ((at, f"{at}.ffn.up_proj") for _, at, layer in iter_layers(config) if layer.ffn and layer.ffn_dim)
