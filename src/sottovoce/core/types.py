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

    def on_frames(self, frames: int, join: int = 1, rate: float = 0.0) -> Features:
        """The same on exactly `frames` frames, those of another encoder of the same audio.

        join: so many of these frames for each of the other's, concatenated: (B, frames, join D). rate: these frames per frame of the
        other's, where that is no whole number; they are resampled (see `resampled`). Models round the length of a recording up or
        down, by a frame or two: the last frame is repeated, or what is too much is dropped. ValueError when more is missing.
        """
        there, wanted = self.last.shape[1], frames * join
        if rate:
            lengths = None if self.lengths is None else torch.div(self.lengths, rate, rounding_mode="floor").long()
            _check_frames(there, round(frames * rate), 2, f"{frames} times {rate:g}")

            def fit(x: Tensor) -> Tensor:
                return resampled(x, frames, rate, self.lengths)

        elif there == frames and join == 1:
            return self
        else:
            lengths = None if self.lengths is None else self.lengths // join
            _check_frames(there, wanted, 2 * join, f"{frames}{f' times {join}' if join > 1 else ''}")

            def fit(x: Tensor) -> Tensor:
                x = x[:, :wanted] if there >= wanted else torch.cat([x, x[:, -1:].expand(-1, wanted - there, -1)], dim=1)
                return x.unflatten(1, (frames, join)).flatten(2) if join > 1 else x

        hidden = [fit(x) for x in self.hidden]
        return Features(hidden, lengths, fit(self.embedded), fit(self.last), [fit(x) for x in self.ffn])


def _check_frames(there: int, wanted: int, few: int, said: str) -> None:
    """ValueError unless `there` frames are `wanted` frames but for rounding."""
    if abs(there - wanted) > max(few, wanted // 50):
        raise ValueError(f"the teacher gives {there} frames where the student gives {said}: their frame rates differ")


def resampled(x: Tensor, frames: int, rate: float, lengths: Tensor | None = None) -> Tensor:
    """(B, T, D) on `frames` frames, each `rate` of x's frames long: linear interpolation between the centres of frames.

    Frame i of either is taken as the stretch from i to i + 1 strides, so the centre of frame i of the result lies at
    ``(i + 1/2) rate - 1/2`` on x's axis. Before the first centre and after the last (of `lengths`, (B,), where rows are padded) the
    nearest frame is repeated.
    """
    at = (torch.arange(frames, device=x.device, dtype=torch.float32) + 0.5) * rate - 0.5
    ends = torch.full((len(x),), x.shape[1], device=x.device) if lengths is None else lengths.to(x.device).clamp(min=1)
    last = (ends - 1)[:, None]
    at = torch.minimum(at.clamp(min=0)[None], last.float())
    low = at.floor().long()
    high = torch.minimum(low + 1, last)

    def pick(index: Tensor) -> Tensor:
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))

    return torch.lerp(pick(low), pick(high), (at - low)[..., None].to(x.dtype))


@dataclass(frozen=True)
class Vectors:
    """What an utterance teacher says about a batch. vectors: (B, D), one for each recording; a score is a vector of width 1."""

    vectors: Tensor


Answer = Features | Vectors


@dataclass(frozen=True)
class Loss:
    """What an objective finds in one micro-batch: sums, never means, so that padding and many machines cannot skew them.

    total: scalar, differentiable. logs: sums of its parts, by name, detached. Both are divided by the objective's denominator over
    all micro-batches and machines (`Objective.denominator`).
    """

    total: Tensor
    logs: Mapping[str, Tensor]


class Cost(NamedTuple):
    """Size of a model or of a part of it: parameters, and multiply-accumulates per second of audio (floats or 0-dim tensors)."""

    params: float | Tensor
    macs: float | Tensor

    def __add__(self, other: object) -> Cost:  # a sum of costs, not tuple concatenation
        assert isinstance(other, Cost)
        return Cost(self.params + other.params, self.macs + other.macs)
