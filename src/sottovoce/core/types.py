"""The few types that the parts of sottovoce exchange. They hold data and know nothing of each other's code.

Shape letters used throughout the package: B batch, S samples, T frames, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz; every encoder family reads 16 kHz mono


@dataclass(frozen=True)
class Batch:
    """Audio of one micro-batch.

    wave: (B, S) float32, 16 kHz, as decoded (not normalised). lengths: (B,) int64 valid samples per row, or ``None`` when no
    row is padded, which lets attention run without a mask. ids: one name per row, for messages. labels: what the data's label column
    says of each row, "" where it says nothing; () without such a column.
    """

    wave: Tensor
    lengths: Tensor | None = None
    ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Valid audio in the batch, in seconds."""
        samples = self.wave.numel() if self.lengths is None else int(self.lengths.sum())
        return samples / SAMPLE_RATE

    def to(self, device: torch.device) -> Batch:
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=True)
        return Batch(self.wave.to(device, non_blocking=True), lengths, self.ids, self.labels)


@dataclass(frozen=True)
class Features:
    """What an encoder says about a batch.

    hidden: ``hidden[0]`` is the front end's output before positions, ``hidden[i]`` the output of layer i; each (B, T, D).
    lengths: (B,) valid frames per row, or ``None`` when all T frames of every row are valid.
    embedded: (B, T, D), what the first layer reads (after positions; ``transformers`` calls this ``hidden_states[0]``).
    last: (B, T, D), ``hidden[-1]`` after the final layer norm where the model has one (pre-norm models), else ``hidden[-1]``.
    ffn: outputs of the last feed-forward part of every layer before the residual sum, when asked for. Of a Conformer layer, whose
    sum takes half of it: the whole.
    mask: (B, T) bool, the frames whose input was replaced, or ``None``.
    """

    hidden: list[Tensor]
    lengths: Tensor | None
    embedded: Tensor
    last: Tensor
    ffn: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None

    def valid(self) -> Tensor:
        """(B, T) bool, true on frames that stand on real audio."""
        rows, frames = self.last.shape[:2]
        if self.lengths is None:
            return torch.ones(rows, frames, dtype=torch.bool, device=self.last.device)
        return torch.arange(frames, device=self.last.device) < self.lengths[:, None]

    def on_frames(self, frames: int, join: int = 1) -> Features:
        """The same on exactly `frames` frames of `join` frames each, beside one another: (B, frames, join D).

        Models round the length of a recording up or down, by a frame or two. ValueError when the frame rates differ otherwise.
        """
        there, wanted = self.last.shape[1], frames * join
        if there == frames and join == 1:
            return self
        if abs(there - wanted) > max(2 * join, wanted // 50):
            times = f" times {join}" if join > 1 else ""
            raise ValueError(
                f"the teacher gives {there} frames where the student gives {frames}{times}: their frame rates differ"
            )

        def fit(x: Tensor) -> Tensor:
            x = x[:, :wanted] if there >= wanted else torch.cat([x, x[:, -1:].expand(-1, wanted - there, -1)], dim=1)
            return x.unflatten(1, (frames, join)).flatten(2) if join > 1 else x

        hidden = [fit(x) for x in self.hidden]
        lengths = None if self.lengths is None else self.lengths // join
        return Features(hidden, lengths, fit(self.embedded), fit(self.last), [fit(x) for x in self.ffn])


@dataclass(frozen=True)
class Loss:
    """A sum over `count` frames, never a mean, so that padding and many machines cannot skew it.

    total: scalar, differentiable. count: how many frames it sums over. logs: sums of the parts, by name, detached; the loop
    divides them by the global count before it writes them down.
    """

    total: Tensor
    count: Tensor
    logs: Mapping[str, Tensor]


class Cost(NamedTuple):
    """Size of a model or of a part of it: parameters, and multiply-accumulates per second of audio (floats or 0-dim tensors)."""

    params: float | Tensor
    macs: float | Tensor

    def __add__(self, other: object) -> Cost:  # a sum of costs, not tuple concatenation
        assert isinstance(other, Cost)
        return Cost(self.params + other.params, self.macs + other.macs)
