"""Encoders that compute a recording in chunks: what their frames see, and convolutions that stop at a chunk's end.

A chunk of 4 frames with 2 frames to the left: frames 4 to 7 attend to frames 2 to 7, and convolutions read frames up to 7 and any before.
This is what `sottovoce.stream` computes without look-ahead. B batch, T frames, C channels, K kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE

UNLIMITED = 1 << 40  # frames


@dataclass(frozen=True)
class Chunks:
    """In frames. size: frames that are computed together. left: frames before the chunk that attention sees."""

    size: int
    left: int

    def seen(self, frames: int, device: torch.device) -> Tensor:
        """(T, T) bool: true where the frame of a row sees the frame of a column."""
        at = torch.arange(frames, device=device)
        begins = (at // self.size * self.size)[:, None]
        return (at >= begins - self.left) & (at < begins + self.size)


@dataclass(frozen=True)
class Sight:
    """What the frames of a batch see.

    keys: (B or 1, 1, 1 or T, T) bool, true where attention sees a key. inside: (B, T) bool, true on valid frames; ``None``: all are.
    chunk: frames after which convolutions see nothing; 0: they see everything.
    """

    keys: Tensor
    inside: Tensor | None
    chunk: int = 0


def sight(inside: Tensor | None, chunks: Chunks | None, frames: int, device: torch.device) -> Sight | None:
    """What `frames` frames see, of which those `inside` are valid; ``None`` if every frame sees every other."""
    valid = None if inside is None else inside[:, None, None]
    if chunks is None or chunks.size >= frames:
        return None if valid is None else Sight(valid, inside)
    seen = chunks.seen(frames, device)
    if valid is not None:  # a frame of padding sees itself, because attention over no frames at all is a quotient of zeros
        seen = seen & valid | torch.eye(frames, dtype=torch.bool, device=device)
    return Sight(seen if seen.dim() == 4 else seen[None, None], inside, chunks.size)


def convolved_in_chunks(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: int, after: int, groups: int, chunk: int
) -> Tensor:
    """(B, C, T) -> (B, C', T): a convolution over `before` past and `after` future frames, where frames after the chunk count as zeros."""
    rows, frames = len(x), x.shape[2]
    count = -(-frames // chunk)
    windows = F.pad(x, (before, count * chunk - frames)).unfold(2, before + chunk, chunk)  # (B, C, chunks, before + chunk)
    y = F.conv1d(F.pad(windows.transpose(1, 2).flatten(0, 1), (0, after)), weight, bias, groups=groups)
    return y.unflatten(0, (rows, count)).transpose(1, 2).flatten(2)[..., :frames]


def drawn(least: int, most: int) -> int:
    """A number from `least` to `most`, all with equal chances."""
    return int(torch.randint(least, most + 1, ()))


def whole_frames(name: str, seconds: float, stride: int, least: int = 0) -> int:
    """How many frames of `stride` samples last so long; `UNLIMITED` for ``math.inf``. name: for the message.

    ValueError unless it is a whole number of frames, and at least `least`.
    """
    if seconds == math.inf:
        return UNLIMITED
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} is {seconds} seconds; it must be a length of time, or inf")
    frame = stride / SAMPLE_RATE
    count = round(seconds / frame)
    if count < least or abs(seconds / frame - count) > 1e-6:
        below, above = (max(least, bound) for bound in (math.floor(seconds / frame), math.ceil(seconds / frame)))
        nearest = " or ".join(f"{bound * frame:g}" for bound in sorted({below, above}))
        raise ValueError(f"{name} is {seconds:g} seconds; this model's frames last {frame * 1000:g} ms, so take {nearest}")
    return count
