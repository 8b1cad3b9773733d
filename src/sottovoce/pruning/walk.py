"""The parts of an encoder of a given shape, in the order in which sound passes them, with the numbers that their cost depends on.

`cost` and `latency` hold one formula for each kind of part. A new kind is named in `Kind` and met in `walk`; mypy then asks for its
two formulas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import EncoderConfig, LayerConfig
from sottovoce.encoder.kaldi_fbank import BINS

Width = float | Tensor
Kind = Literal["conv.first", "conv", "fbank", "projection", "position", "relative", "attention", "ffn", "glu", "norms"]


@dataclass(frozen=True)
class Piece:
    """One part of an encoder, for one clip. `units`, `inputs` and `part` may be expectations.

    frames: how many come out. units: how many there are of what the part is made of: channels (of "position": groups of channels),
    heads, feed-forward units, norms. size: channels in each unit (of "relative": rows of the table). inputs: numbers in a frame that
    goes in, where that is not the encoder's width. style: the norm of a convolution ("group", "layer", "batch"), or how attention
    knows distances ("" if it does not). part: 1, or 0 when the whole part is gone. kernel, stride: of a convolution, in steps of
    its input; of the projection, the frames that it joins. depth: convolutions in a row.
    """

    name: str
    kind: Kind
    frames: int
    units: Width
    inputs: Width = 0
    style: str = ""
    part: Width = 1
    size: int = 1
    kernel: int = 1
    stride: int = 1
    depth: int = 1


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


def any_unit(width: Width) -> Width:
    """1 if there is any unit, else 0. Of an expected number: an upper bound of the probability."""
    return width.clamp(max=1) if isinstance(width, Tensor) else min(width, 1)


def walk(config: EncoderConfig, widths: Mapping[str, Width] | None, seconds: float) -> Iterator[Piece]:
    """Every part, for one clip of `seconds`. widths, names: see `encoder_cost`. ValueError when a clip is too short for one frame."""
    known: dict[str, Width] = dict(full_widths(config))
    assert widths is None or known.keys() >= widths.keys(), "widths are named after the groups of a plan"
    known.update(widths or {})
    frontend, position, relative = config.frontend, config.position, config.relative

    frames: int = round(seconds * SAMPLE_RATE)
    last: Width = 1
    for i, conv in enumerate(frontend.convs):
        at = f"frontend.convs.{i}"
        kind: Kind = "conv" if i else "conv.first"
        frames = (frames - conv.kernel) // conv.stride + 1
        yield Piece(at, kind, frames, known[at], inputs=last, style=frontend.norm, kernel=conv.kernel, stride=conv.stride)
        last = known[at]
    if frontend.fbank is not None:
        frames = (frames - frontend.fbank.size) // frontend.fbank.hop + 1
        yield Piece("frontend.fbank", "fbank", frames, frontend.fbank.mels, inputs=BINS)
        last, frames = frontend.fbank.dim, frames // frontend.fbank.stack
    join = frontend.join
    frames //= join
    if frames < 1:
        raise ValueError(f"{seconds} s are too short for one frame")
    yield Piece("frontend.projection", "projection", frames, config.dim, inputs=last, kernel=join, stride=join)
    if position is not None:
        size = config.dim // position.groups
        yield Piece("position", "position", frames, known["position"], size=size, kernel=position.kernel, depth=position.depth)
    if relative is not None:
        yield Piece("relative", "relative", frames, relative.heads, size=relative.buckets)
    for i, layer in enumerate(config.layers):
        yield from _layer(config, layer, f"layers.{i}", known, frames)
    norms = sum(5 if layer.kind == "conformer" else 2 for layer in config.layers) + int(config.norm)
    yield Piece("norms", "norms", frames, norms)


def _layer(config: EncoderConfig, layer: LayerConfig, at: str, known: Mapping[str, Width], frames: int) -> Iterator[Piece]:
    """The parts of the layer named `at`. known: units in every group."""
    distance = "relative" if config.relative is not None else config.distance.kind if config.distance is not None else ""
    heads, part = known[f"{at}.head"], known[f"{at}.attention"]
    yield Piece(f"{at}.attention", "attention", frames, heads, style=distance, part=part, size=layer.head_dim)
    for number in ("1", "") if layer.kind == "conformer" else ("",):
        units, part = known[f"{at}.ffn{number}"], known[f"{at}.feed_forward{number}"]
        yield Piece(f"{at}.ffn{number}", "ffn", frames, units, part=part)
    if layer.kind == "conformer":
        shape = config.convolution
        yield Piece(f"{at}.glu", "glu", frames, known[f"{at}.glu"], style=shape.norm, kernel=shape.kernel)
