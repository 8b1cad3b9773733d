"""`sottovoce.stream`: features of live audio."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder
from sottovoce.encoder.context import UNLIMITED
from sottovoce.hub.student import Speech, load
from sottovoce.streaming.frontend import StreamFrontend
from sottovoce.streaming.layers import Context, ContextLayers, StreamFeatures
from sottovoce.streaming.limits import Limits, encoder_of, limits_of, waveform

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stream(
    model: Speech | str | Path, chunk: float | None = None, left: float | None = None, right: float = 0.0
) -> FeatureStream:
    """Opens a stream: push samples as they arrive, get the features of finished frames.

    model: a folder, a hub id, or the result of `sottovoce.load`. chunk: seconds that are computed together. left: seconds of the past
    that every attention layer sees. right: seconds of look-ahead that a chunk waits for. Each must be a whole number of frames (usually
    of 20 ms); left and right may be ``math.inf``. Without them, chunk and left are what the model was trained for, or 0.32 and 2 s.

    >>> stream = sottovoce.stream("students/hubert", chunk=0.32, left=2.0)
    >>> for samples in microphone:                  # 16 kHz mono floats, any number at a time
    ...     features = stream.push(samples)         # features.hidden[i]: (1, new final frames, dim); often no frames
    >>> features = stream.flush()                   # the last frames; the next push begins a new stream

    ValueError if a limit is not a whole number of frames, or if the model cannot be streamed.
    """
    model = model if isinstance(model, Speech) else load(model)
    return FeatureStream(model, limits_of(model, chunk, left, right))


class FeatureStream:
    """One live stream, or several of equal length in a batch. See `stream`.

    The features equal those of `one_pass.stream_in_one_pass` on the complete recording, however the samples are split. Memory and time per
    chunk are constant, unless `left` is unlimited. Do not share a stream between threads; streams may share a model.
    """

    def __init__(self, model: Speech, limits: Limits) -> None:
        self.model, self.limits, self.encoder = model, limits, encoder_of(model)
        self.reset()

    @property
    def latency(self) -> float:
        """Algorithmic latency in ms: the longest time from a frame's first sample to its output, without computing time. Infinite if
        `right` is unlimited."""
        if self.limits.right >= UNLIMITED:
            return math.inf
        shape = self.encoder.config.frontend
        return ((self.limits.chunk + self.limits.right - 1) * shape.stride + shape.kernel) / SAMPLE_RATE * 1000

    def reset(self) -> None:
        """Forgets the past: the next push begins a new stream."""
        self.rows: int | None = None
        self.first = 0  # number of the next chunk's first frame
        self.frames: Tensor | None = None  # front-end frames from there on
        self.frontend = StreamFrontend(self.encoder.frontend, self.model.normalize)
        self.context = StreamContext(self.encoder, self.limits.left)
        self.layers = ContextLayers(self.encoder, self.context)

    @torch.no_grad()
    def push(self, samples: Tensor | NDArray[Any], rate: int = SAMPLE_RATE) -> StreamFeatures:
        """Adds samples, (S,) or (B, S) floats at `rate` Hz (16000), and returns the frames that became final, possibly none.

        ValueError if it is not such a waveform; the stream is then unchanged.
        """
        wave = waveform(samples, rate, next(self.encoder.parameters()).device)
        if self.rows not in (None, len(wave)):
            raise ValueError(f"the stream began with {self.rows} rows and goes on with {len(wave)}; flush or reset it first")
        self.rows = len(wave)
        self.frontend.push(wave)
        chunks = []
        ahead = self.limits.chunk + self.limits.right
        while self.frontend.ready >= self.first + ahead:
            self._take(self.first + ahead)
            chunks.append(self._chunk())
        return self._joined(chunks)

    @torch.no_grad()
    def flush(self) -> StreamFeatures:
        """Ends the stream: returns the frames that were waiting for more audio. The next push begins a new stream."""
        if (end := self.frontend.ready) > self.frontend.taken:
            self._take(end, ending=True)
        chunks = []
        while self.first < end:
            chunks.append(self._chunk())
        features = self._joined(chunks)
        self.reset()
        return features

    def _take(self, end: int, ending: bool = False) -> None:
        new = self.frontend.take(end - self.frontend.taken, ending)
        self.frames = new if self.frames is None else torch.cat([self.frames, new], dim=1)

    def _chunk(self) -> StreamFeatures:
        """The features of the next chunk. Its look-ahead frames are computed again with their own chunk."""
        assert self.frames is not None
        window = self.frames[:, : self.limits.chunk + self.limits.right]
        own = min(self.limits.chunk, window.shape[1])
        self.context.advance(self.first, own, window.shape[1])
        outputs = self.layers(window)
        hidden = [x[:, :own] for x in outputs.hidden]
        self.first += own
        self.frames = self.frames[:, own:]
        return self._features(hidden, outputs.embedded[:, :own], outputs.last[:, :own], self.first - own)

    def _features(self, hidden: list[Tensor], embedded: Tensor, last: Tensor, first: int) -> StreamFeatures:
        shape = self.encoder.config.frontend
        return StreamFeatures(hidden, None, embedded, last, first=first, stride=shape.stride, kernel=shape.kernel)

    def _joined(self, pieces: list[StreamFeatures]) -> StreamFeatures:
        if not pieces:
            empty = next(self.encoder.parameters()).new_zeros(self.rows or 1, 0, self.encoder.config.dim)
            pieces = [self._features([empty] * (len(self.encoder.layers) + 1), empty, empty, self.first)]
        hidden = [torch.cat(states, dim=1) for states in zip(*(piece.hidden for piece in pieces), strict=True)]
        embedded, last = (torch.cat([getattr(piece, name) for piece in pieces], dim=1) for name in ("embedded", "last"))
        features = self._features(hidden, embedded, last, pieces[0].first)
        return features if self.model.projections is None else features.through(self.model.projections)


class StreamContext(Context):
    """The state that a stream keeps between chunks: keys and values of the last `left` frames in every attention layer, and the last inputs
    of every convolution."""

    def __init__(self, encoder: Encoder, left: int) -> None:
        self.encoder, self.left = encoder, left
        self.cache: dict[str, Tensor] = {}  # module name -> its past
        self.sizes = (-1, -1)

    def advance(self, first: int, own: int, window: int) -> None:
        """Moves on to the `window` frames from number `first`. The first `own` belong to the chunk and are kept for later chunks."""
        weight = next(self.encoder.parameters())
        self.at = torch.arange(first, first + window, device=weight.device)
        self.own = own
        past = min(first, self.left)
        if self.sizes != (past, window):  # the shared tables depend on distances only, which repeat
            self.sizes = (past, window)
            keys = torch.arange(-past, window, device=weight.device)
            self.place_at(self.encoder, keys[past:], keys)

    def keys(self, name: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([k, v], dim=3)
        if name in self.cache:
            seen = torch.cat([self.cache[name], seen], dim=2)
        end = self.sizes[0] + self.own
        self.cache[name] = seen[:, :, max(0, end - self.left) : end]
        keys, values = seen.split([k.shape[3], v.shape[3]], dim=3)
        return keys, values

    def convolve(self, name: str, x: Tensor, conv: nn.Conv1d, before: int, after: int, groups: int) -> Tensor:
        past = self.cache.get(name)
        x = F.pad(x, (before, 0)) if past is None else torch.cat([past, x], dim=2)
        self.cache[name] = x[..., self.own : self.own + before]
        return F.conv1d(F.pad(x, (0, after)), conv.weight, conv.bias, groups=groups)
