"""Subnets of a supernet: encoders of other sizes that share its weights (LightHuBERT, Wang et al. 2022, arXiv 2203.15610).

A subnet has the first dimensions of the residual stream, the first heads and the first feed-forward units, and leaves out whole layers. A
subnet of a subnet that has all layers is therefore one of the supernet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import Features
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.apply import cut_like, named_tensors, narrow
from sottovoce.pruning.dims import Dims
from sottovoce.pruning.plan import make_plan, rebuild

BLOCKS = 3  # of layers: a subnet of fewer layers loses the last ones of each


@dataclass(frozen=True)
class Subnet:
    """dim: dimensions of the residual stream. layers: numbers, from 0, of the layers that stay. heads, ffn: heads and feed-forward units of
    each of these."""

    dim: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """The sizes that subnets may have; the defaults are those of LightHuBERT Small.

    dims: dimensions of the residual stream. depths: numbers of layers. heads, ratios: of each layer by itself, numbers of heads, and of
    feed-forward units per dimension.
    """

    dims: tuple[int, ...] = (256, 384, 512)
    depths: tuple[int, ...] = (10, 11, 12)
    heads: tuple[int, ...] = (4, 6, 8)
    ratios: tuple[float, ...] = (3.0, 3.5, 4.0)

    def __post_init__(self) -> None:
        for name in ("dims", "depths", "heads", "ratios"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) <= 0 or list(sizes) != sorted(set(sizes)):
                raise ValueError(
                    f"space.{name} must be ascending numbers above 0, such as {list(getattr(Space, name))}; got {list(sizes)}"
                )

    @property
    def count(self) -> int:
        """The number of subnets."""
        return len(self.dims) * sum((len(self.heads) * len(self.ratios)) ** depth for depth in self.depths)

    def check(self, config: EncoderConfig) -> None:
        """ValueError if an encoder of this shape cannot be a supernet of them."""
        layer = config.layers[0]
        plain = all(each == layer for each in config.layers) and layer.kind == "transformer" and layer.attention and layer.ffn
        turned = config.distance is not None and config.distance.kind != "rotary_heads"
        if not plain or layer.reuse or turned or config.relative is not None or config.factored:
            raise ValueError(
                "a supernet needs equal Transformer layers whose attention knows distances by position alone: HuBERT, wav2vec 2.0, "
                "data2vec-audio, UniSpeech, Whisper or Moonshine, not pruned"
            )
        groups = 1 if config.position is None else config.position.groups
        limits = {
            "dims": config.dim,
            "depths": len(config.layers),
            "heads": layer.num_heads,
            "ratios": layer.ffn_dim / config.dim,
        }
        for name, limit in limits.items():
            if max(getattr(self, name)) > limit:
                raise ValueError(f"pruning.space.{name} goes up to {max(getattr(self, name)):g}, and the encoder has {limit:g}")
        if wrong := [dim for dim in self.dims if dim % groups]:
            raise ValueError(f"pruning.space.dims has {wrong[0]}, which is no multiple of the {groups} groups of positions")

    def subnet(self, whole: int, dim: int, heads: tuple[int, ...], ratios: tuple[float, ...]) -> Subnet:
        """A subnet with as many layers as there are `heads`. whole: layers of the supernet."""
        return Subnet(dim, layers_left(whole, len(heads)), heads, tuple(int(ratio * dim) for ratio in ratios))

    def largest(self, whole: int) -> Subnet:
        """The one that has all others inside. whole: layers of the supernet."""
        depth = self.depths[-1]
        return self.subnet(whole, self.dims[-1], self.heads[-1:] * depth, self.ratios[-1:] * depth)

    def draw(self, whole: int, generator: torch.Generator | None = None) -> Subnet:
        """Any of them: each size with equal chances. Draws from torch's global generator by default."""

        def pick(options: tuple[Any, ...]) -> Any:
            return options[int(torch.randint(len(options), (), generator=generator))]

        depth, dim = pick(self.depths), pick(self.dims)
        return self.subnet(
            whole, dim, tuple(pick(self.heads) for _ in range(depth)), tuple(pick(self.ratios) for _ in range(depth))
        )

    def neighbours(self, subnet: Subnet, step: int) -> Iterator[Subnet]:
        """Those of the same width and depth that have one size more (step 1) or less (-1) in one layer."""
        units = tuple(int(ratio * subnet.dim) for ratio in self.ratios)
        for heads in _one_changed(subnet.heads, self.heads, step):
            yield dataclasses.replace(subnet, heads=heads)
        for ffn in _one_changed(subnet.ffn, units, step):
            yield dataclasses.replace(subnet, ffn=ffn)


def _one_changed(sizes: tuple[int, ...], options: tuple[int, ...], step: int) -> Iterator[tuple[int, ...]]:
    for i, size in enumerate(sizes):
        at = options.index(size) + step
        if 0 <= at < len(options):
            yield (*sizes[:i], options[at], *sizes[i + 1 :])


def layers_left(depth: int, count: int) -> tuple[int, ...]:
    """Numbers, from 0, of `count` of `depth` layers. The last layer of each of three blocks goes first, of the top block before the others
    (so the paper's code has it for 12 layers)."""
    ends = [(block + 1) * depth // BLOCKS for block in range(BLOCKS)]
    starts = [0, *ends[:-1]]
    order = [ends[b] - 1 - back for back in range(depth) for b in reversed(range(BLOCKS)) if ends[b] - 1 - back >= starts[b]]
    return tuple(sorted(set(range(depth)) - set(order[: depth - count])))


class Subnets:
    """What subnets of an encoder of this shape are made of. Serves many subnets of one encoder."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self._dims: dict[int, Dims] = {}

    def dims(self, dim: int) -> Dims:
        if dim not in self._dims:
            self._dims[dim] = Dims(self.config, dim)
        return self._dims[dim]

    def places(self, dim: int) -> Tensor:
        """The dimensions that stay, by their places in a group (see `Dims`)."""
        return torch.arange(dim // self.dims(dim).groups)

    def kept(self, dim: int) -> Tensor:
        """(dim,) the dimensions that stay."""
        return self.dims(dim).kept(self.places(dim))

    def shape(self, subnet: Subnet) -> EncoderConfig:
        layers = tuple(
            dataclasses.replace(self.config.layers[i], num_heads=heads, ffn_dim=ffn)
            for i, heads, ffn in zip(subnet.layers, subnet.heads, subnet.ffn, strict=True)
        )
        return dataclasses.replace(self.config, dim=subnet.dim, layers=layers)

    def tensors(self, tensors: Mapping[str, Tensor], subnet: Subnet) -> dict[str, Tensor]:
        """Those of a subnet, of the encoder's own `tensors`. Differentiable."""
        mine = {name: tensor for name, tensor in tensors.items() if not name.startswith("layers.")}
        for new, old in enumerate(subnet.layers):
            start = f"layers.{old}."
            mine |= {f"layers.{new}.{name.removeprefix(start)}": x for name, x in tensors.items() if name.startswith(start)}
        config = dataclasses.replace(self.config, layers=tuple(self.config.layers[i] for i in subnet.layers))
        plan = make_plan(config, ("head", "ffn"))
        kept: dict[str, list[int]] = {}
        for i, (heads, ffn) in enumerate(zip(subnet.heads, subnet.ffn, strict=True)):
            kept[f"layers.{i}.head"] = list(range(heads))
            kept[f"layers.{i}.ffn"] = self.units(subnet.dim, ffn)
        mine = cut_like(mine, plan, kept)
        assert narrow(config, plan, kept).layers == self.shape(subnet).layers
        places = self.places(subnet.dim).to(next(iter(mine.values())).device)
        return {**mine, **self.dims(subnet.dim).select(mine, places)}

    def units(self, dim: int, count: int) -> list[int]:
        """`count` feed-forward units: the first `dim` of each block, where a block has as many units as the encoder has dimensions."""
        blocks = range(math.ceil(count / dim))
        return [block * self.config.dim + unit for block in blocks for unit in range(min(dim, count - block * dim))]


@torch.no_grad()
def extract(encoder: Encoder, subnet: Subnet) -> Encoder:
    """A subnet as an encoder of its own."""
    subnets = Subnets(encoder.config)
    return rebuild(encoder, subnets.shape(subnet), subnets.tensors(named_tensors(encoder), subnet))


class Supernet(nn.Module):
    """Called like its `encoder`; computes a subnet, drawn anew for each call in training mode, the largest otherwise.

    Its features have the encoder's width and depth, so that one objective serves all subnets: dimensions that a subnet lacks are 0, and the
    state behind a layer that it lacks is that of the layer below. chosen: computes this subnet instead. last: the newest one.
    """

    def __init__(self, encoder: Encoder, space: Space) -> None:
        super().__init__()
        space.check(encoder.config)
        self.encoder, self.space = encoder, space
        self.subnets = Subnets(encoder.config)
        self.chosen: Subnet | None = None
        self.last = space.largest(self.depth)

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        return len(self.encoder.config.layers)

    @cached_property
    def _largest(self) -> Subnet:
        return self.space.largest(self.depth)

    def forward(
        self, wave: Tensor, lengths: Tensor | None = None, *, mask_vector: Tensor | None = None, **options: Any
    ) -> Features:
        subnet = self.chosen or (self.space.draw(self.depth) if self.training else self._largest)
        self.last = subnet
        kept = self.subnets.kept(subnet.dim).to(wave.device)
        if mask_vector is not None:
            mask_vector = mask_vector[kept]
        with torch.device("meta"):
            skeleton = Encoder(self.subnets.shape(subnet)).train(self.training)
        tensors = self.subnets.tensors(named_tensors(self.encoder), subnet)
        known = {name for name, _ in (*skeleton.named_parameters(), *skeleton.named_buffers())}
        features: Features = torch.func.functional_call(
            skeleton, {name: tensors[name] for name in known}, (wave, lengths), {"mask_vector": mask_vector, **options}
        )
        return self._whole(features, subnet, kept)

    def _whole(self, features: Features, subnet: Subnet, kept: Tensor) -> Features:
        width = self.encoder.config.dim

        def spread(x: Tensor) -> Tensor:
            return x if x.shape[-1] == width else x.new_zeros(*x.shape[:-1], width).index_copy(-1, kept, x)

        below = [sum(layer <= i for layer in subnet.layers) for i in range(self.depth)]  # states from 0: of the front end
        hidden = [spread(x) for x in features.hidden]
        return Features(
            [hidden[0], *(hidden[i] for i in below)],
            features.lengths,
            spread(features.embedded),
            spread(features.last),
            [spread(features.ffn[max(0, i - 1)]) for i in below] if features.ffn else [],
            features.mask,
            [features.maps[max(0, i - 1)] for i in below] if features.maps else [],
        )
