"""Linear layers as two factors: which there are in an encoder, how they are made, and how they become one matrix again.

A projection W (M, N) of rank R is an outer (M, R) and an inner factor (R, N). It costs R (M + N) instead of M N, so below a rank of
M N / (M + N) two factors are cheaper than one matrix: below N / 2 for a square one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning.moments import Moments
from sottovoce.pruning.plan import rebuild
from sottovoce.pruning.unit import Width, any_unit

Factors = tuple[Tensor, Tensor]  # outer (M, R), inner (R, N)


@dataclass(frozen=True)
class Projection:
    """A linear layer between the residual stream, of width `dim`, and the units of a part, which have `width` rows or columns of it.

    name: of the module, such as "layers.0.ffn.up_proj". part: the part that it belongs to. reads: whether it reads the units (else it
    makes them).
    """

    name: str
    part: str
    dim: int
    width: Width
    reads: bool

    @property
    def full(self) -> int:
        """The largest rank."""
        return min(self.dim, int(self.width))

    @property
    def outputs(self) -> int:
        return self.dim if self.reads else int(self.width)

    def dense(self) -> Width:
        """Parameters of one matrix."""
        return self.dim * self.width

    def factored(self, rank: Width) -> Width:
        """Parameters of two factors, none where there are no units."""
        return rank * (any_unit(self.width) * self.dim + self.width)

    def pays(self, rank: int) -> bool:
        """Whether two factors are cheaper than one matrix."""
        return bool(self.factored(rank) < self.dense())


def projections(
    config: EncoderConfig, widths: Mapping[str, Width] | None = None, layer: int | None = None
) -> Iterator[Projection]:
    """The linear layers of all layers of the encoder, or of one: attention, feed-forward, a Conformer's convolution.

    widths: (expected) units of groups that differ from `config`.
    """
    widths = widths or {}
    for i in range(len(config.layers)) if layer is None else [layer]:
        at, shape = f"layers.{i}", config.layers[i]
        if shape.attention and shape.num_heads:
            heads, part = widths.get(f"layers.{config.map_layer(i)}.head", shape.num_heads), f"{at}.attention"
            for name in ("v_proj", "out_proj") if shape.reuse else ("q_proj", "k_proj", "v_proj", "out_proj"):
                kind, inside = ("query", shape.query_width) if name in ("q_proj", "k_proj") else ("value", shape.value_width)
                units: Width = heads * widths.get(f"{at}.{kind}", inside)
                yield Projection(f"{part}.{name}", part, config.dim, units, name == "out_proj")
        for part in ("ffn1", "ffn"):
            inner = getattr(shape, f"{part}_dim")
            if getattr(shape, part) and inner and (part == "ffn" or shape.kind == "conformer"):
                for name in ("up_proj", "down_proj"):
                    units = widths.get(f"{at}.{part}", inner)
                    yield Projection(f"{at}.{part}.{name}", f"{at}.{part}", config.dim, units, name == "down_proj")
        if shape.kind == "conformer" and shape.glu_dim:
            channels = widths.get(f"{at}.glu", shape.glu_dim)
            yield Projection(f"{at}.convolution.in_proj", f"{at}.glu", config.dim, 2 * channels, False)
            yield Projection(f"{at}.convolution.out_proj", f"{at}.glu", config.dim, channels, True)


def matching(config: EncoderConfig, patterns: Iterable[str]) -> list[Projection]:
    """The projections whose names match one of the shell patterns, such as ``*.ffn.*``; all of them without patterns."""
    patterns = tuple(patterns)
    return [each for each in projections(config) if not patterns or any(fnmatchcase(each.name, p) for p in patterns)]


def with_factors(config: EncoderConfig, ranks: Mapping[str, int]) -> EncoderConfig:
    """The config in which these projections have these ranks, too."""
    return dataclasses.replace(config, factored=tuple({**dict(config.factored), **ranks}.items()))


def singular(weight: Tensor) -> Factors:
    """The factors of a matrix at full rank: U sqrt(S) and sqrt(S) V of its singular value decomposition."""
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    return (u * s.sqrt()).to(weight.dtype), (s.sqrt()[:, None] * v).to(weight.dtype)


def factor_tensors(encoder: Encoder, names: Iterable[str], split: Callable[[str, Tensor], Factors]) -> dict[str, Tensor]:
    """The tensors with which projections of `encoder` are two factors. split: a projection's name and weight -> its factors."""
    state, factors = encoder.state_dict(), {}
    for name in names:
        outer, inner = split(name, state[f"{name}.weight"])
        factors[f"{name}.outer.weight"], factors[f"{name}.inner.weight"] = outer.contiguous(), inner.contiguous()
        if f"{name}.bias" in state:
            factors[f"{name}.outer.bias"] = state[f"{name}.bias"]
    return factors


@dataclass(frozen=True)
class Directions:
    """The principal directions of a projection's outputs, on calibration audio.

    basis: (M, R) orthonormal, R the smaller of inputs and outputs; W = basis basis^T W. variances: (R,) of the outputs along them, largest
    first. mean: (M,) of the outputs, or ``None`` for a projection without a bias, whose directions are those of E[y y^T].
    """

    basis: Tensor
    variances: Tensor
    mean: Tensor | None

    def left_out(self) -> Tensor:
        """(R,) for each direction, the share of the variance that is lost without it and all that follow."""
        tail = self.variances.clamp(min=0).flip(0).cumsum(0).flip(0)
        return tail / tail[0].clamp(min=torch.finfo(tail.dtype).tiny)

    def truncated(self, weight: Tensor, bias: Tensor | None, rank: int) -> tuple[Factors, Tensor | None]:
        """Factors and bias at this rank: V (V^T W), and the bias mean + V V^T (bias - mean)."""
        kept = self.basis[:, :rank]
        factors = kept, kept.t() @ weight.double()
        if bias is None or self.mean is None:
            return (factors[0].to(weight.dtype), factors[1].to(weight.dtype)), None
        moved = self.mean + kept @ (kept.t() @ (bias.double() - self.mean))
        return (factors[0].to(weight.dtype), factors[1].to(weight.dtype)), moved.to(bias.dtype)


def directions(weight: Tensor, bias: Tensor | None, moments: Moments, of_inputs: bool) -> Directions:
    """The principal directions of y = W x + b. moments: of x, or of y, whichever is narrower (LiteASR, arXiv 2502.20583: of y)."""
    centred, flat = bias is not None, weight.double()
    second = moments.second(centred)
    mean = moments.mean.double()
    if of_inputs:
        values, vectors = torch.linalg.eigh(second)
        # never 0, so that the basis spans all columns of W although some inputs do not vary on this audio
        values = values.clamp(min=1e-9 * float(second.diagonal().mean()) + 1e-30)
        basis, scale, _ = torch.linalg.svd(flat @ (vectors * values.sqrt()), full_matrices=False)
        variances = scale.square()
        mean = flat @ mean + (bias.double() if bias is not None else 0)
    else:
        values, vectors = torch.linalg.eigh(second)
        basis, variances = vectors.flip(1), values.flip(0)
    return Directions(basis, variances, mean if centred else None)


@torch.no_grad()
def merge(encoder: Encoder) -> Encoder:
    """The encoder in which projections are one matrix again where two factors are no cheaper. `encoder` itself if they all are."""
    ranks = dict(encoder.config.factored)
    whole = {each.name for each in projections(encoder.config) if each.name in ranks and not each.pays(ranks[each.name])}
    if not whole:
        return encoder
    state = encoder.state_dict()
    for name in whole:
        state[f"{name}.weight"] = state[f"{name}.outer.weight"] @ state[f"{name}.inner.weight"]
        if f"{name}.outer.bias" in state:
            state[f"{name}.bias"] = state[f"{name}.outer.bias"]
    left = tuple((name, rank) for name, rank in encoder.config.factored if name not in whole)
    return rebuild(encoder, dataclasses.replace(encoder.config, factored=left), state)
