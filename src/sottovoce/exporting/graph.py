"""What an exported file computes, as a torch module: raw audio and lengths in, hidden states and frame counts out.

B batch, S samples, T frames, D width, L layers, F windows of the filter bank, M mel bins.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sottovoce.core.types import Features
from sottovoce.encoder import Encoder, EncoderConfig, normalize
from sottovoce.encoder.kaldi_fbank import BINS, FFT, Fbank
from sottovoce.encoder.log_mel import mel_filters
from sottovoce.encoder.position import sinusoid_columns, sinusoid_rates
from sottovoce.encoder.relative_log_mel import BINS as WINDOW_BINS
from sottovoce.encoder.relative_log_mel import RelativeLogMel, slaney_filters
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.hub.teacher_space import TeacherSpace

LAST, ALL = "last", "all"
TURNS = 64  # so many times the length of a table of sinusoids a file takes: 32 minutes for Whisper


class Graph(nn.Module):
    """(B, S) raw 16 kHz samples and (B,) valid samples -> hidden states, (B,) valid frames, and for each head of `scores` (B, N) scores.
    Normalises the waves itself if the model wants that.

    layer: "last", or the number of a layer as transformers counts them (0: what the first layer reads), for (B, T, D); "all" for
    (B, L, T, D), of which the last is the one after the final norm. space: takes a student's layers into its teacher's space, where D and T
    are the teacher's, and norms are left out, as of `hub.student.Speech`. scores: a student's heads that score recordings, which take each
    row as one window. ValueError for a layer that there is not.

    A row that is too short for a frame has 0 frames and finite states, computed as if it had one: attention over no frames at all would
    be a quotient of zeros in most runtimes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        normalize: bool,
        layer: str = ALL,
        space: TeacherSpace | None = None,
        scores: ScoreHeads | None = None,
    ) -> None:
        super().__init__()
        if encoder.config.context is not None:
            raise ValueError(
                "this student computes recordings in chunks, which exported files do not; open it with sottovoce.stream"
            )
        self.names = layer_names(encoder) if space is None else [f"layer {i}" for i in range(len(encoder.layers) + 1)]
        if layer not in (LAST, ALL, *map(str, range(len(self.names)))):
            raise ValueError(f"there is no layer '{layer}'; give 0 to {len(self.names) - 1}, '{LAST}' or '{ALL}'")
        self.encoder, self.normalize, self.layer, self.space = traceable(encoder), normalize, layer, space
        self.scores = copy.deepcopy(scores)

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        kernel = self.encoder.config.frontend.kernel
        features = self.features(wave, lengths)
        assert features.lengths is not None
        frames = torch.where(lengths < kernel, torch.zeros_like(features.lengths), features.lengths)
        said = [] if self.scores is None else [head(features) for _, head in self.scores.heads()]
        return self.states(features), frames * self.join, *said

    def features(self, wave: Tensor, lengths: Tensor | None) -> Features:
        """All that the encoder gives; rows that are too short for a frame count as long enough for one."""
        x = normalize(wave, lengths) if self.normalize else wave
        least = self.encoder.config.frontend.kernel
        features: Features = self.encoder(x, None if lengths is None else lengths.clamp(min=least))
        return features

    def states(self, features: Features) -> Tensor:
        """The layer or layers that it gives, of all."""
        states = [features.embedded, *features.hidden[1:-1], features.last] if self.space is None else self.space(features.hidden)
        if self.layer == ALL:
            return torch.stack(states, dim=1)
        return states[-1 if self.layer == LAST else int(self.layer)]

    @property
    def join(self) -> int:
        """Frames that it gives for each of the encoder's."""
        return 1 if self.space is None else self.space.join

    @property
    def chosen(self) -> list[str]:
        """Names of the layers that it gives."""
        return self.names if self.layer == ALL else [self.names[-1 if self.layer == LAST else int(self.layer)]]


def layer_names(encoder: Encoder) -> list[str]:
    """One name for every hidden state, in the order of transformers."""
    names = ["embedded", *(f"layer {i}" for i in range(1, len(encoder.layers) + 1))]
    if encoder.config.norm_first and encoder.config.norm:
        names[-1] += ", normed"
    return names


def traceable(encoder: Encoder) -> Encoder:
    """A copy of the same function in which everything can be written as ONNX."""
    twin = copy.deepcopy(encoder).eval()
    features = twin.frontend.features
    if isinstance(features, Fbank):
        twin.frontend.features = PlainFbank(features)
    elif isinstance(features, RelativeLogMel):
        twin.frontend.features = PlainLogMel(features)
    if goes_on(twin.config):
        assert twin.positions is not None
        twin.rows = rows_by_turns(twin.positions, twin.config.sinusoids)  # type: ignore[assignment, method-assign]
    return twin


def goes_on(config: EncoderConfig) -> bool:
    """Whether recordings may be longer than the table of positions."""
    return bool(config.sinusoids and config.positions and not config.window)


def longest(config: EncoderConfig) -> int:
    """Samples that a file takes at most; 0 without a limit."""
    return config.longest or (TURNS * config.positions * config.frontend.stride if goes_on(config) else 0)


def rows_by_turns(table: Tensor, width: int) -> Callable[[Tensor, int], Tensor]:
    """`Encoder.rows` of a table (R, D) of sinusoids for any number of frames up to R times `TURNS`, without a choice between two ways.

    Row a R + b is row b turned a times: sin(r (a R + b) + p) = sin(r b + p) cos(r a R) + cos(r b + p) sin(r a R). Behind the table, rows
    are so as exact as the table is (3e-4 where it was stored in half precision).
    """
    column = sinusoid_columns(table, width)
    rate, phase = (x[column] for x in sinusoid_rates(width))
    turns = torch.arange(TURNS, dtype=torch.float64)[:, None] * len(table) * rate
    cosine, sine = turns.cos().float(), turns.sin().float()
    quarter = (torch.arange(len(table), dtype=torch.float64)[:, None] * rate + phase).cos().float()

    def rows(table: Tensor, frames: int) -> Tensor:
        at = torch.arange(frames)
        turn, row = at // len(table), at % len(table)
        return table[row] * cosine[turn] + quarter[row] * sine[turn]

    return rows


class PlainFbank(Fbank):
    """`Fbank` with its window, filters and Fourier transform as constants: runtimes multiply matrices everywhere, and fast."""

    window: Tensor
    filters: Tensor
    fourier: Tensor

    def __init__(self, bank: Fbank) -> None:
        super().__init__(bank.config)
        size = bank.config.size
        self.register_buffer("fourier", fourier(size, BINS, FFT))
        self.register_buffer("window", torch.hann_window(size, periodic=False).pow(0.85))
        self.register_buffer("filters", mel_filters(BINS, bank.config.mels, 16_000.0))

    def energies(self, wave: Tensor) -> Tensor:
        """(B, S) -> (B, F, M)."""
        size, hop = self.config.size, self.config.hop
        x = windows(wave, size, hop) * 2.0**15
        x = x - x.mean(-1, keepdim=True)
        x = x - 0.97 * torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        return power((x * self.window) @ self.fourier) @ self.filters


class PlainLogMel(RelativeLogMel):
    """`RelativeLogMel` with its window, filters and Fourier transform as constants."""

    filters: Tensor
    fourier: Tensor

    def __init__(self, of: RelativeLogMel) -> None:
        super().__init__(of.config)
        size = of.config.size
        self.register_buffer("fourier", torch.hann_window(size)[:, None] * fourier(size, WINDOW_BINS, size))
        self.register_buffer("filters", slaney_filters(of.config.mels))

    def energies(self, wave: Tensor) -> Tensor:
        """(B, P) -> (B, T, M)."""
        return power(windows(wave, self.config.size, self.config.hop) @ self.fourier) @ self.filters


def fourier(size: int, bins: int, length: int) -> Tensor:
    """(size, 2 bins): cosines and sines of the first `bins` frequencies of a transform of `length` samples."""
    at = torch.arange(size, dtype=torch.float64)[:, None] * torch.arange(bins, dtype=torch.float64)
    angle = at.remainder(length) * (2 * math.pi / length)
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


def windows(wave: Tensor, size: int, hop: int) -> Tensor:
    """(B, S) -> (B, F, size), by an index, which every runtime has."""
    count = (wave.shape[1] - size) // hop + 1
    at = torch.arange(count, device=wave.device)[:, None] * hop + torch.arange(size, device=wave.device)
    return wave[:, at]


def power(transform: Tensor) -> Tensor:
    """(..., 2 bins) real and imaginary parts -> (..., bins) squares of magnitudes."""
    real, imaginary = transform.square().chunk(2, dim=-1)
    return real + imaginary


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of each other and of their own future."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
