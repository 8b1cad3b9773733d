"""Singular directions of projections: what low rank removes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sottovoce.core.registry import UNITS
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.factors import factor_tensors, matching, projections, singular, with_factors
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Width, Workload, any_unit, layer_of

TITLES = {
    "attention.q_proj": "Rank of queries",
    "attention.k_proj": "Rank of keys",
    "attention.v_proj": "Rank of values",
    "attention.out_proj": "Rank of attention outputs",
    "convolution.in_proj": "Rank into the convolution",
    "convolution.out_proj": "Rank out of the convolution",
    "ffn1.up_proj": "Rank into the first feed-forward",
    "ffn1.down_proj": "Rank out of the first feed-forward",
    "ffn.up_proj": "Rank into the feed-forward",
    "ffn.down_proj": "Rank out of the feed-forward",
}


@UNITS.register("low_rank")
class LowRank(UnitKind):
    """Singular directions of projections, so that their rank is learned.

    A group has the name of its projection, such as "layers.0.ffn.up_proj". Preparing writes W = U S V as the factors U sqrt(S) and
    sqrt(S) V, with a gate on every direction: of the projections that the patterns name or, without patterns, of those that are two
    factors already, or of all if none is. A projection that keeps so many directions that two factors are no cheaper is one matrix
    after the cut, and counts as one (`factors.merge`).
    """

    order = 7
    rounded = True

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        ranks = dict(config.factored)
        return {each.name: ranks[each.name] for each in projections(config) if each.name in ranks} if ranks else {}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        for name, size in self.sizes(config).items():
            slices = (Slice(f"{name}.inner.weight", 0), Slice(f"{name}.outer.weight", 1, scale=True))
            yield Group(name, self.name, size, slices, minimum=1, index=layer_of(name))

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        return with_factors(config, {group.name: len(kept)})

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        if config.factored and not self.patterns:
            return config
        there = dict(config.factored)
        return with_factors(config, {each.name: each.full for each in matching(config, self.patterns) if each.name not in there})

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        there = dict(encoder.config.factored)
        new = [name for name, _ in self.prepared(encoder.config).factored if name not in there]
        return factor_tensors(encoder, new, lambda _, weight: singular(weight))

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        full = {each.name: each.full for each in projections(config)} if config.factored else {}
        return replace(config, factored=tuple((name, rank) for name, rank in config.factored if rank < full.get(name, 0)))

    def part_of(self, group: str) -> str:
        return group.rpartition(".")[0].replace(".convolution", ".glu")

    def recost(self, part: PartCost, workload: Workload) -> PartCost:
        ranks, layer = dict(workload.config.factored), layer_of(part.name)
        if not ranks or layer < 0:
            return part
        params: Width = 0
        inside: Width = 0  # numbers between the two factors, of one frame
        for each in projections(workload.config, workload.sizes, layer):
            if each.part == part.name and each.name in ranks:
                rank, dense = workload.sizes[each.name], each.dense()
                if workload.merged and each.factored(rank) >= dense:
                    continue
                params = params + each.factored(rank) - dense
                inside = inside + rank * any_unit(each.width)
        present, frames = workload.present(part.name), workload.frames
        change = present * params
        return part.plus(change, change * frames, {"macs": change * frames, "outputs": present * inside * frames})

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        return {name: TITLES[".".join(name.split(".")[-2:])] for name in self.sizes(config)}

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        ranks: dict[str, list[str]] = {}
        for name, rank in self.sizes(config).items():
            ranks.setdefault(self.part_of(name), []).append(f"{name.rpartition('.')[2].removesuffix('_proj')} {rank}")
        return {part: ("", f"ranks: {', '.join(each)}") for part, each in ranks.items()}
