"""The features of a stream, computed from a complete recording in one pass. Tests compare streams with it.

A chunk sees `right` frames ahead. These look-ahead frames are computed with the chunk's own context, once for each chunk that uses them,
so that the delay does not grow with depth (Emformer, arXiv 2010.10759). One pass therefore computes N frames: first the T real frames,
then a copy of each look-ahead frame for each chunk.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, normalize
from sottovoce.hub.student import Speech, load
from sottovoce.streaming.layers import Context, ContextLayers, StreamFeatures
from sottovoce.streaming.limits import Limits, encoder_of, limits_of, waveform

if TYPE_CHECKING:
    from numpy.typing import NDArray


@torch.no_grad()
def stream_in_one_pass(
    model: Speech | str | Path,
    wave: Tensor | NDArray[Any],
    chunk: float | None = None,
    left: float | None = None,
    right: float = 0.0,
    rate: int = SAMPLE_RATE,
) -> StreamFeatures:
    """The features that `sottovoce.stream` with the same limits gives for `wave`.

    wave: (S,) or (B, S) floats at 16 kHz, rows of equal length. Memory grows with the square of the length. ValueError as for
    `stream`, and if `wave` is shorter than one frame.
    """
    model = model if isinstance(model, Speech) else load(model)
    limits, encoder = limits_of(model, chunk, left, right), encoder_of(model)
    shape = encoder.config.frontend
    x = front(model, encoder, waveform(wave, rate, next(encoder.parameters()).device), limits)
    frames = x.shape[1]
    context = OnePassContext(encoder, limits, frames)
    outputs = ContextLayers(encoder, context)(x[:, context.at])
    hidden = [state[:, :frames] for state in outputs.hidden]
    embedded, last = outputs.embedded[:, :frames], outputs.last[:, :frames]
    features = StreamFeatures(hidden, None, embedded, last, stride=shape.stride, kernel=shape.kernel)
    return features if model.projections is None else features.through(model.projections)


def front(model: Speech, encoder: Encoder, wave: Tensor, limits: Limits) -> Tensor:
    """Front-end frames: (B, S) -> (B, T, D). A norm over time uses the audio that a stream has when it first computes the frame."""
    shape = encoder.config.frontend
    if not (model.normalize or shape.over_time):
        x: Tensor = encoder.frontend(wave)[0]
        return x
    pieces: list[Tensor] = []
    total, done, end = max(1, shape.frames(wave.shape[1])), 0, limits.chunk + limits.right
    while done < total:
        received = wave if end > total else wave[:, : (end - 1) * shape.stride + shape.kernel]
        x = encoder.frontend(normalize(received) if model.normalize else received)[0]
        pieces.append(x[:, done:])
        done, end = done + pieces[-1].shape[1], end + limits.chunk
    return torch.cat(pieces, dim=1)


class OnePassContext(Context):
    """The context of one pass: which of the T frames and of the look-ahead copies see each other."""

    def __init__(self, encoder: Encoder, limits: Limits, frames: int) -> None:
        device = next(encoder.parameters()).device
        chunk, right = min(limits.chunk, frames), min(limits.right, frames)
        self.width, count = chunk + right, math.ceil(frames / chunk)
        first = torch.arange(count, device=device)[:, None] * chunk
        window = first + torch.arange(self.width, device=device)  # (chunks, width): every chunk's frames and its look-ahead
        exists, ahead = window < frames, window >= first + chunk
        own, copies = exists & ~ahead, exists & ahead
        self.at = torch.cat([window[own], window[copies]])
        chunk_of = first.expand_as(window) // chunk
        of = torch.cat([chunk_of[own], chunk_of[copies]])

        # `out`: place of each of the N frames in the chunks' windows; `into`: the reverse, with N (a zero frame) for gaps
        order = torch.arange(window.numel(), device=device).view_as(window)
        self.out = torch.cat([order[own], order[copies]])
        self.into = torch.full((window.numel(),), len(self.at), device=device)
        self.into[self.out] = torch.arange(len(self.at), device=device)
        self.into = self.into.view_as(window)

        begins = of[:, None] * chunk
        copy = torch.arange(len(self.at), device=device) >= frames
        seen_own = ~copy & (self.at >= begins - limits.left) & (self.at < begins + chunk)
        self.mask = torch.where(copy, of[:, None] == of, seen_own)
        self.place_at(encoder, self.at, self.at)

    def keys(self, name: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def convolve(self, name: str, x: Tensor, conv: nn.Conv1d, before: int, after: int, groups: int) -> Tensor:
        rows, chunks = len(x), len(self.into)
        zero = x.shape[2]
        back = self.into[:, :1] - torch.arange(before, 0, -1, device=x.device)  # a chunk's past: real frames, never copies
        index = torch.cat([torch.where(back < 0, zero, back), self.into], dim=1)
        windows = F.pad(x, (0, 1))[:, :, index].transpose(1, 2).flatten(0, 1)  # (B * chunks, C, before + width)
        y = F.conv1d(F.pad(windows, (0, after)), conv.weight, conv.bias, groups=groups)
        return y.unflatten(0, (rows, chunks)).transpose(1, 2).flatten(2)[:, :, self.out]
