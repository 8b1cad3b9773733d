"""Encoders that hear one length: recordings are padded to it, and longer ones cut into windows without overlap.

B batch, S samples, W samples of a window, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.types import Features


def by_windows(
    run: Callable[[Tensor, Tensor | None], Features],
    wave: Tensor,
    lengths: Tensor | None,
    mask: Tensor | None,
    window: int,
    stride: int,
) -> Features:
    """The features of (B, S) waves of (B,) samples, of which `run` sees (B, W) at a time, zeros behind the end. Frames of the audio alone.

    run: from waves and (B, T of a window) masked frames or ``None``. stride: samples from one frame to the next, of which W is a multiple.
    """
    samples = wave.shape[1]
    if lengths is not None:  # what lies behind the end of a row is not audio
        wave = wave * (torch.arange(samples, device=wave.device) < lengths[:, None]).to(wave.dtype)
    steps = window // stride

    def hear(piece: Tensor, masked: Tensor | None) -> Features:
        filled = None if masked is None else F.pad(masked, (0, steps - masked.shape[1]))
        return run(F.pad(piece, (0, window - piece.shape[1])), filled)

    if samples <= window:
        return hear(wave, mask)
    masks = [None] * -(-samples // window) if mask is None else mask.split(steps, 1)
    return joined([hear(*piece) for piece in zip(wave.split(window, 1), masks, strict=False)])


def joined(pieces: list[Features]) -> Features:
    """Features of neighbouring windows as those of one recording."""

    def rows(which: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(states, dim=1) for states in zip(*which, strict=True)]

    hidden, ffn = rows([piece.hidden for piece in pieces]), rows([piece.ffn for piece in pieces])
    embedded, last = (torch.cat([getattr(piece, name) for piece in pieces], dim=1) for name in ("embedded", "last"))
    return Features(hidden, None, embedded, last, ffn)


def cut(features: Features, frames: int, lengths: Tensor | None, mask: Tensor | None) -> Features:
    """The first `frames` frames, of which `lengths` (B,) are valid."""

    def few(x: Tensor) -> Tensor:
        return x[:, :frames]

    hidden, ffn = [few(x) for x in features.hidden], [few(x) for x in features.ffn]
    return Features(hidden, lengths, few(features.embedded), few(features.last), ffn, mask)
