"""What an encoder of a given shape costs: parameters, and multiply-accumulates per second of audio.

One formula serves exact counts (integers) and expectations (tensors, differentiable): cost is a polynomial in the widths,
linear in each, and gates of different groups are independent, so expected widths give the expected cost (DPHuBERT, arXiv
2305.17651, does so for parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..encoder import EncoderConfig
from ..encoder.filterbank import BINS
from ..types import SAMPLE_RATE, Cost

Width = float | Tensor


def full_widths(config: EncoderConfig) -> dict[str, int]:
    """How many units of each kind an encoder has, under the names that `make_plan` gives to groups; 1 or 0 for whole parts."""
    widths = {f"frontend.convs.{i}": conv.dim for i, conv in enumerate(config.frontend.convs)}
    if config.position is not None:
        widths["position"] = config.position.groups if config.position.kept is None else len(config.position.kept)
    for i, layer in enumerate(config.layers):
        widths[f"layers.{i}.head"] = layer.num_heads
        widths[f"layers.{i}.attention"] = int(layer.attention)
        widths[f"layers.{i}.ffn"] = layer.ffn_dim
        widths[f"layers.{i}.feed_forward"] = int(layer.ffn)
        if layer.kind == "conformer":
            widths |= {f"layers.{i}.ffn1": layer.ffn1_dim, f"layers.{i}.feed_forward1": int(layer.ffn1)}
            widths[f"layers.{i}.glu"] = layer.glu_dim
    return widths


def encoder_cost(config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0) -> dict[str, Cost]:
    """Cost of each part, for one clip of `seconds` (attention costs more per second in longer clips).

    widths: group name -> (expected) number of open units, for the groups that differ from `config`. Parts: "frontend.convs.i" or
    "frontend.fbank", "frontend.projection" (with its norm), "position", "relative", "layers.i.attention", "layers.i.ffn",
    "layers.i.ffn1" and "layers.i.glu" (of Conformer layers), "norms".
    params: the number of elements in the encoder's state dict. macs: what `torch.utils.flop_counter` counts, halved.
    """
    known: dict[str, Width] = dict(full_widths(config))
    assert widths is None or known.keys() >= widths.keys(), "widths are named after the groups of a plan"
    known.update(widths or {})
    frontend, dim = config.frontend, config.dim
    costs: dict[str, Cost] = {}

    frames: int = round(seconds * SAMPLE_RATE)
    last: Width = 1
    for i, conv in enumerate(frontend.convs):
        width = known[f"frontend.convs.{i}"]
        frames = (frames - conv.kernel) // conv.stride + 1
        normed = frontend.norm == "layer" or (frontend.norm == "group" and i == 0)
        kernel = last * width * conv.kernel
        costs[f"frontend.convs.{i}"] = Cost(kernel + width * (int(frontend.bias) + 2 * int(normed)), kernel * frames / seconds)
        last = width
    if frontend.fbank is not None:
        frames = (frames - frontend.fbank.size) // frontend.fbank.hop + 1  # the spectrum is not counted: it is a fast transform
        costs["frontend.fbank"] = Cost(0, BINS * frontend.fbank.mels * frames / seconds)
        last, frames = frontend.fbank.dim, frames // frontend.fbank.stack
    if frames < 1:
        raise ValueError(f"{seconds} s are too short for one frame")
    norm = 2 * last if frontend.projection_norm else 0
    costs["frontend.projection"] = Cost(norm + (last + 1) * dim, last * dim * frames / seconds)

    position = config.position
    if position is not None:
        groups, width = known["position"], dim // position.groups
        scale = 0 if position.kept is None else groups
        padded = frames + 1 - position.kernel % 2  # an even kernel computes one frame too many
        kernel = groups * (width * width * position.kernel * position.depth)
        costs["position"] = Cost(kernel + groups * (width * position.depth) + scale, kernel * padded / seconds)
    if config.relative is not None:
        costs["relative"] = Cost(config.relative.buckets * config.relative.heads, 0)

    for i, layer in enumerate(config.layers):
        heads, part = known[f"layers.{i}.head"], known[f"layers.{i}.attention"]
        size = heads * layer.head_dim
        params = 3 * (dim + 1) * size + (size + 1) * dim
        macs = size * frames * (4 * dim + 2 * frames)  # projections; scores and weighted sum
        if config.relative is not None:  # a gate per head; its projection is shared by the heads that there are
            params = params + heads + any_unit(heads) * 8 * (layer.head_dim + 1)
            macs = macs + size * frames * 2
        distance = config.distance
        if distance is not None and distance.kind == "key":  # one vector per distance, shared by the heads that there are
            vectors = distance.left + distance.right + 1
            params = params + any_unit(heads) * vectors * layer.head_dim
            macs = macs + size * frames * vectors
        elif distance is not None and distance.kind == "sinusoid":
            params = params + size * (dim + 2)
            macs = macs + size * (2 * frames - 1) * (dim + frames)
        costs[f"layers.{i}.attention"] = Cost(part * params, part * macs / seconds)
        for number in ("1", "") if layer.kind == "conformer" else ("",):
            units, part = known[f"layers.{i}.ffn{number}"], known[f"layers.{i}.feed_forward{number}"]
            params = (dim + 1) * units + (units + 1) * dim
            costs[f"layers.{i}.ffn{number}"] = Cost(part * params, part * (2 * frames * dim * units) / seconds)
        if layer.kind == "conformer":
            width, kernel = known[f"layers.{i}.glu"], config.convolution.kernel
            vectors = 4 if config.convolution.norm == "batch" else 2
            costs[f"layers.{i}.glu"] = Cost(width * (3 * dim + kernel + vectors), width * (3 * dim + kernel) * frames / seconds)
    norms = sum(5 if layer.kind == "conformer" else 2 for layer in config.layers) + int(config.norm)
    costs["norms"] = Cost(2 * dim * norms, 0)
    return costs


def total(costs: Mapping[str, Cost] | Iterable[Cost]) -> Cost:
    """The sum of all parts."""
    result = Cost(0, 0)
    for cost in costs.values() if isinstance(costs, Mapping) else costs:
        result = result + cost
    return result


def any_unit(width: Width) -> Width:
    """1 if there is any unit, else 0. Of an expected number: an upper bound of the probability."""
    return width.clamp(max=1) if isinstance(width, torch.Tensor) else min(width, 1)
