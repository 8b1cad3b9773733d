"""The data types that the packages exchange.

Letters for shapes in all of sottovoce: B batch, S samples, T frames, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz; every encoder family reads 16 kHz mono


@dataclass(frozen=True)
class Batch:
    """Audio of one micro-batch.

    wave: (B, S) float32, 16 kHz, as decoded (not normalised). lengths: (B,) int64 valid samples per row, or ``None`` if no row is padded;
    attention then needs no mask. ids: one name per row, for messages. labels: one label per row, "" if unknown; () without a label column.
    texts: what is said in each row, "" if unknown or if the row is a part of a recording; () without a text column.
    heard: (B, S), the audio that the student hears instead of `wave`, with noise for example; ``None`` if it is the same.
    """

    wave: Tensor
    lengths: Tensor | None = None
    ids: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    heard: Tensor | None = None

    @property
    def seconds(self) -> float:
        """Valid audio in the batch, in seconds."""
        samples = self.wave.numel() if self.lengths is None else int(self.lengths.sum())
        return samples / SAMPLE_RATE

    def to(self, device: torch.device) -> Batch:
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=True)
        return Batch(self.wave.to(device, non_blocking=True), lengths, self.ids, self.labels, self.texts)

    def rows(self, which: Sequence[int]) -> Batch:
        """The batch of these rows, no longer than the longest of them."""
        lengths = None if self.lengths is None else self.lengths[list(which)]
        end = self.wave.shape[1] if lengths is None else int(lengths.max())
        ids, labels, texts = (tuple(names[i] for i in which) if names else () for names in (self.ids, self.labels, self.texts))
        heard = None if self.heard is None else self.heard[list(which), :end]
        return Batch(self.wave[list(which), :end], lengths, ids, labels, texts, heard)


@dataclass(frozen=True)
class Features:
    """The outputs of an encoder for a batch.

    hidden: ``hidden[0]`` is the front end's output before positions, ``hidden[i]`` the output of layer i; each (B, T, D).
    lengths: (B,) valid frames per row, or ``None`` if all T frames are valid.
    embedded: (B, T, D), the first layer's input, after positions (``hidden_states[0]`` in ``transformers``).
    last: (B, T, D), ``hidden[-1]``, after the final layer norm if the model has one (pre-norm models).
    ffn: if requested, the output of each layer's last feed-forward part before the residual sum (in a Conformer: before it is halved).
    mask: (B, T) bool, the masked frames, or ``None``.
    maps: if requested, the attention map of each layer, averaged over its heads, (B, T, T); zeros where a layer has no heads.
    """

    hidden: list[Tensor]
    lengths: Tensor | None
    embedded: Tensor
    last: Tensor
    ffn: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)

    def valid(self) -> Tensor:
        """(B, T) bool, false on padding."""
        rows, frames = self.last.shape[:2]
        if self.lengths is None:
            return torch.ones(rows, frames, dtype=torch.bool, device=self.last.device)
        return torch.arange(frames, device=self.last.device) < self.lengths[:, None]

    def rows(self, which: Sequence[int]) -> Features:
        """The features of these rows."""
        at = list(which)
        lengths, mask = (None if x is None else x[at] for x in (self.lengths, self.mask))
        hidden, ffn = [x[at] for x in self.hidden], [x[at] for x in self.ffn]
        return Features(hidden, lengths, self.embedded[at], self.last[at], ffn, mask, [x[at] for x in self.maps])

    def on_frames(self, frames: int, join: int = 1, rate: float = 0.0) -> Features:
        """These features on the `frames` frames of another encoder of the same audio.

        join: frames per frame of the other encoder; they are concatenated: (B, frames, join D). rate: the same if it is not a whole
        number; frames are then resampled (see `resampled`). Models round the length of a recording differently, by a frame or two: the
        last frame is repeated, or extra frames are dropped. ValueError for a larger difference. Maps are kept where frames are as long.
        """
        count, target = self.last.shape[1], frames * join
        if rate:
            lengths = None if self.lengths is None else torch.div(self.lengths, rate, rounding_mode="floor").long()
            _check_frames(count, round(frames * rate), 2, f"{frames} times {rate:g}")

            def fit(x: Tensor) -> Tensor:
                return resampled(x, frames, rate, self.lengths)

        elif count == frames and join == 1:
            return self
        else:
            lengths = None if self.lengths is None else self.lengths // join
            _check_frames(count, target, 2 * join, f"{frames}{f' times {join}' if join > 1 else ''}")

            def fit(x: Tensor) -> Tensor:
                x = x[:, :target] if count >= target else torch.cat([x, x[:, -1:].expand(-1, target - count, -1)], dim=1)
                return x.unflatten(1, (frames, join)).flatten(2) if join > 1 else x

        hidden = [fit(x) for x in self.hidden]
        plain = join == 1 and not rate
        maps = [fit(fit(x).transpose(1, 2)).transpose(1, 2) for x in self.maps] if plain else []
        return Features(hidden, lengths, fit(self.embedded), fit(self.last), [fit(x) for x in self.ffn], None, maps)


def _check_frames(count: int, target: int, tolerance: int, student: str) -> None:
    """ValueError unless `count` equals `target` up to rounding. student: the student's frames, for the message."""
    if abs(count - target) > max(tolerance, target // 50):
        raise ValueError(f"the teacher gives {count} frames where the student gives {student}: their frame rates differ")


def resampled(x: Tensor, frames: int, rate: float, lengths: Tensor | None = None) -> Tensor:
    """Resamples (B, T, D) to `frames` frames, each `rate` of x's frames long, by linear interpolation between the centres of frames.

    Frame i covers the time from i to i + 1 strides, so the centre of frame i of the result is at ``(i + 1/2) rate - 1/2`` in x's frames.
    Before the first and after the last centre (by `lengths`, (B,), if rows are padded) the nearest frame is repeated.
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
    """The outputs of an utterance teacher for a batch. vectors: (B, D), one per recording; a score is a vector of width 1."""

    vectors: Tensor

    def rows(self, which: Sequence[int]) -> Vectors:
        """The vectors of these rows."""
        return Vectors(self.vectors[list(which)])


Answer = Features | Vectors


@dataclass(frozen=True)
class Outputs:
    """What a host (a recogniser, a classifier) says of a batch. logits: (B, N, C); N counts frames, tokens, or is 1. valid: (B, N) bool."""

    logits: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Posteriors:
    """The probabilities that a host gives at each output, with all but the likeliest classes taken as one.

    tops: (B, N, K) int64, the K likeliest of C classes. log_probs: (B, N, K), or (B, N, K + 1) if K < C: natural logarithms, the last
    that of all other classes together. valid: (B, N) bool. tokens: (B, N + 1), the transcript that the outputs continue, for hosts that
    answer with tokens: output i is about token i + 1.
    """

    tops: Tensor
    log_probs: Tensor
    valid: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True)
class Labels:
    """What the data say that a host should say of a batch.

    kind: what the host answers with. ids: (B, N) tokens of a CTC recogniser; (B, N + 1) tokens of a decoder, whose output i is about
    token i + 1; (B, 1) classes. valid: (B, N) bool, those to be learned. blank: the token of CTC's blank.
    """

    kind: Literal["frames", "tokens", "classes"]
    ids: Tensor
    valid: Tensor
    blank: int = 0


@dataclass(frozen=True)
class Loss:
    """An objective's loss for one micro-batch: sums, never means, so that padding and several machines do not change their weight.

    total: scalar, differentiable. logs: sums of its parts, by name, detached. Both are divided by the objective's denominator over
    all micro-batches and machines (`Objective.denominator`).
    """

    total: Tensor
    logs: Mapping[str, Tensor]


class Cost(NamedTuple):
    """The size of a model or part: parameters, and multiply-accumulates per second of audio (floats or 0-dim tensors)."""

    params: float | Tensor
    macs: float | Tensor

    def __add__(self, other: object) -> Cost:  # a sum of costs, not tuple concatenation
        assert isinstance(other, Cost)
        return Cost(self.params + other.params, self.macs + other.macs)
