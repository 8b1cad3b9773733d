"""What an encoder of a given shape costs: parameters, and multiply-accumulates per second of audio.

One formula serves exact counts (integers) and expectations (tensors, differentiable): cost is a polynomial in the widths,
linear in each, and gates of different groups are independent, so expected widths give the expected cost (DPHuBERT, arXiv
2305.17651, does so for parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sottovoce.core.types import Cost
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.walk import Piece, Width, any_unit, full_widths, walk

__all__ = ["Width", "encoder_cost", "full_widths", "total"]


def encoder_cost(config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0) -> dict[str, Cost]:
    """Cost of each part, for one clip of `seconds` (attention costs more per second in longer clips).

    widths: group name -> (expected) number of open units, for the groups that differ from `config`. Parts: "frontend.convs.i" or
    "frontend.fbank", "frontend.projection" (with its norm), "position", "relative", "layers.i.attention", "layers.i.ffn",
    "layers.i.ffn1" and "layers.i.glu" (of Conformer layers), "norms".
    params: the number of elements in the encoder's state dict. macs: what `torch.utils.flop_counter` counts, halved.
    """
    costs = {}
    for piece in walk(config, widths, seconds):
        params, macs = _params_and_macs(config, piece)
        costs[piece.name] = Cost(piece.part * params, piece.part * macs / seconds)
    return costs


def _params_and_macs(config: EncoderConfig, of: Piece) -> tuple[Width, Width]:
    """Of a part that is there: its parameters, and its multiply-accumulates per clip."""
    dim, units, frames = config.dim, of.units, of.frames
    match of.kind:
        case "conv.first" | "conv":
            normed = of.style == "layer" or (of.style == "group" and of.kind == "conv.first")
            weights = of.inputs * units * of.kernel
            return weights + units * (int(config.frontend.bias) + 2 * int(normed)), weights * frames
        case "fbank":  # the spectrum is not counted: it is a fast transform
            return 0, of.inputs * units * frames
        case "projection":
            norm = 2 * of.inputs if config.frontend.projection_norm else 0
            heard = of.inputs * of.kernel
            return norm + (heard + 1) * dim, heard * dim * frames
        case "position":
            scales = 0 if config.position is None or config.position.kept is None else units
            padded = frames + 1 - of.kernel % 2  # an even kernel computes one frame too many
            weights = units * (of.size * of.size * of.kernel * of.depth)
            return weights + units * (of.size * of.depth) + scales, weights * padded
        case "relative":
            return of.size * units, 0
        case "attention":
            return _attention(config, of)
        case "ffn":
            return (dim + 1) * units + (units + 1) * dim, 2 * frames * dim * units
        case "glu":
            vectors = 4 if of.style == "batch" else 2
            return units * (3 * dim + of.kernel + vectors), units * (3 * dim + of.kernel) * frames
        case "norms":
            return 2 * dim * units, 0


def _attention(config: EncoderConfig, of: Piece) -> tuple[Width, Width]:
    """The same of attention."""
    dim, heads, frames, distance = config.dim, of.units, of.frames, config.distance
    size = heads * of.size
    params = 3 * (dim + 1) * size + (size + 1) * dim
    macs = size * frames * (4 * dim + 2 * frames)  # projections; scores and weighted sum
    if of.style == "relative":  # a gate per head; its projection is shared by the heads that there are
        params = params + heads + any_unit(heads) * 8 * (of.size + 1)
        macs = macs + size * frames * 2
    elif of.style == "key" and distance is not None:  # one vector per distance, shared by the heads that there are
        vectors = distance.left + distance.right + 1
        params = params + any_unit(heads) * vectors * of.size
        macs = macs + size * frames * vectors
    elif of.style == "sinusoid":
        params = params + size * (dim + 2)
        macs = macs + size * (2 * frames - 1) * (dim + frames)
    return params, macs


def total(costs: Mapping[str, Cost] | Iterable[Cost]) -> Cost:
    """The sum of all parts."""
    result = Cost(0, 0)
    for cost in costs.values() if isinstance(costs, Mapping) else costs:
        result = result + cost
    return result
