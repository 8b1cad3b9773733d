"""Augmentation of the student's input with equalisers, noise, rooms and masks, so that it does not depend on rooms and microphones.

The teacher and all targets use the clean audio, as in WavLM's denoising (Chen et al. 2022) and RobustDistiller (Guimaraes et al. 2023).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.corrupt import add_noise, as_loud, energy, reverberate, valid_samples, voices
from sottovoce.data.decode import BadAudio, read_audio
from sottovoce.data.sources import open_source

BANDS = 10  # control points of a random equaliser, equally spaced in log frequency from 60 Hz up
FADE = 0.02  # seconds of cross-fade between the two equalisers of a row


@dataclass(frozen=True)
class Augment:
    """share: share of batches that are augmented (0: none). equalizer_db: standard deviation of a random equaliser's gains in dB; each half
    of a row has its own equaliser. snr_db: lowest and highest signal-to-noise ratio in dB, drawn once for each batch. voices: share of
    the augmented batches whose noise is babble from other rows of the batch; the others get pink noise, or for each row one of `noises`, a
    source of recordings that are kept in memory. rooms: share of the augmented batches in which each row is in a random room; half of
    these have no noise. rt60: shortest and longest reverberation, in seconds."""

    share: float = 0.0
    equalizer_db: float = 6.0
    snr_db: tuple[float, ...] = (5.0, 30.0)
    voices: float = 0.5
    rooms: float = 0.0
    rt60: tuple[float, ...] = (0.15, 0.6)
    noises: str = ""

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.share, self.voices, self.rooms)):
            raise ValueError("share, voices and rooms must be between 0 and 1")
        if len(self.rt60) != 2 or not 0 < self.rt60[0] <= self.rt60[1]:
            raise ValueError("rt60 must be two numbers of seconds, the shortest and the longest, e.g. [0.15, 0.6]")
        if len(self.snr_db) != 2 or self.snr_db[0] > self.snr_db[1]:
            raise ValueError("snr_db must be two numbers, the lowest and the highest, e.g. [5, 30]")

    def __call__(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) -> (B, S). Keeps the energy of each row and sets padding to zero. Draws from torch's global generator."""
        if not self.share:
            return wave  # draws no random numbers
        chance = torch.rand(3)
        if float(chance[0]) >= self.share:
            return wave
        valid = valid_samples(wave, lengths)
        augmented = wave * valid
        if self.equalizer_db:
            augmented = recolour(augmented, self.equalizer_db)
        if self.rooms:
            room, time = torch.rand(2).tolist()
            if room < self.rooms:
                rt60 = self.rt60[0] + time * (self.rt60[1] - self.rt60[0])
                augmented = reverberate(augmented, lengths, rt60, int(torch.randint(2**31, ())))
                if room < self.rooms / 2:
                    return as_loud(augmented, wave, valid)
        others = float(chance[1]) < self.voices and sum(bool(row.any()) for row in voices(wave, lengths)) > 1
        snr = self.snr_db[0] + float(chance[2]) * (self.snr_db[1] - self.snr_db[0])
        if self.noises and not others:
            augmented = among(augmented, valid, recorded(self.noises), snr)
        else:
            augmented = add_noise(augmented, lengths, "babble" if others else "pink", snr, int(torch.randint(2**31, ())))
        return as_loud(augmented, wave, valid)


@lru_cache(maxsize=4)
def recorded(source: str) -> list[Tensor]:
    """The recordings of a source, each (S,), without those that are silent or cannot be read. ValueError if none is left."""
    waves = []
    for recording in open_source(source):
        try:
            wave = torch.from_numpy(read_audio(recording))
        except BadAudio:
            continue
        if wave.any():
            waves.append(wave)
    if not waves:
        raise ValueError(f"augment.noises: {source} holds no recording that is not silent")
    return waves


def among(wave: Tensor, valid: Tensor, noises: list[Tensor], snr_db: float) -> Tensor:
    """(B, S) -> (B, S), with a random stretch of a random noise in each row, `snr_db` below the row's energy over valid samples."""
    rows, samples = wave.shape

    def one() -> Tensor:
        noise = noises[int(torch.randint(len(noises), ()))]
        return stretch(noise, samples, int(torch.randint(len(noise), ())))

    noise = torch.stack([one() for _ in range(rows)]).to(wave.device)
    gain = (energy(wave, valid) / energy(noise, valid).clamp(min=1e-20) / 10 ** (snr_db / 10)).sqrt()
    return wave + gain * noise * valid


def stretch(noise: Tensor, samples: int, first: int) -> Tensor:
    """`samples` samples of a noise from sample `first` on; it is repeated where it is short."""
    return noise.repeat(-(-(first + samples) // len(noise)))[first : first + samples]


def recolour(wave: Tensor, deviation_db: float) -> Tensor:
    """(B, S) -> (B, S). Filters each half of a row with its own random equaliser and cross-fades between them."""
    rows, samples = wave.shape
    first, second = (equalize(wave, curve) for curve in colours(2 * rows, deviation_db).view(2, rows, BANDS))
    position = (torch.arange(samples, device=wave.device) - samples / 2) / (FADE * SAMPLE_RATE)
    share = position.clamp(-0.5, 0.5) + 0.5
    return first * (1 - share) + second * share


def colours(rows: int, deviation_db: float, generator: torch.Generator | None = None) -> Tensor:
    """(rows, BANDS) random equaliser gains in dB, normal with mean 0."""
    return torch.randn(rows, BANDS, generator=generator) * deviation_db


def equalize(wave: Tensor, curve: Tensor) -> Tensor:
    """Filter (B, S) with equalisers. curve: (B, BANDS) gains in dB, interpolated linearly in log frequency."""
    samples = wave.shape[1]
    pitch = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    band = (torch.log2(pitch.clamp(min=60) / 60) / torch.log2(torch.tensor(SAMPLE_RATE / 120)) * (BANDS - 1)).clamp(0, BANDS - 1)
    low = band.floor().long().clamp(max=BANDS - 2)
    weight = band - low
    gain = 10 ** ((curve[..., low] * (1 - weight) + curve[..., low + 1] * weight) / 20)
    return torch.fft.irfft(torch.fft.rfft(wave) * gain.to(wave.device), n=samples)


@dataclass(frozen=True)
class FeatureMasks:
    """Masks on the student's filter bank in training (SpecAugment, Park et al. 2019, arXiv 1904.08779, without warping).

    bands, times: masks per recording over mel bins and over time. band_width, time_width: their largest widths, in bins and in frames of
    10 ms; each width is drawn from 0 up. Masked values become the recording's mean.
    """

    bands: int = 0
    band_width: int = 30
    times: int = 0
    time_width: int = 40

    def __post_init__(self) -> None:
        if min(self.bands, self.times) < 0 or min(self.band_width, self.time_width) < 1:
            raise ValueError("bands and times must be at least 0, band_width and time_width at least 1")

    def __bool__(self) -> bool:
        return bool(self.bands or self.times)

    def __call__(self, x: Tensor, stack: int = 1) -> Tensor:
        """(B, T, stack * mels) -> the same with masks. stack: 10 ms frames in each of x's. Draws from torch's global generator."""
        rows, frames, width = x.shape
        mels = width // stack
        hidden = torch.zeros(rows, frames, mels, dtype=torch.bool)
        for count, size, axis in ((self.bands, self.band_width, 2), (self.times, -(-self.time_width // stack), 1)):
            total = hidden.shape[axis]
            widths, places = torch.rand(2, rows, count)
            widths = (widths * (min(size, total) + 1)).long()
            first = (places * (total - widths + 1)).long()
            at = torch.arange(total)
            masks = ((at >= first[..., None]) & (at < (first + widths)[..., None])).any(1)
            hidden |= masks[:, None] if axis == 2 else masks[:, :, None]
        mean = x.mean((1, 2), keepdim=True)
        return torch.where(hidden.repeat(1, 1, stack).to(x.device), mean, x)

    @contextlib.contextmanager
    def on(self, features: nn.Module, stack: int = 1) -> Iterator[None]:
        """Masks what `features`, the filter bank of a front end, gives while this lasts."""
        handle = features.register_forward_hook(lambda module, given, x: self(x, stack))
        try:
            yield
        finally:
            handle.remove()
