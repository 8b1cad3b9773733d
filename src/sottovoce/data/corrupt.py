"""Noise and reverberation, made on the spot and the same for the same seed, on any device.

Everything keeps (B, S) and each row's energy, so that a model that wants normalised input gets it still; padding stays zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE

NOISES = ("white", "pink", "babble")
TALKERS = 4  # voices that make babble
LOWEST = 20.0  # Hz, of pink noise


def voices(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The rows of (B, S) without their padding."""
    return list(wave) if lengths is None else [row[:end] for row, end in zip(wave, lengths.tolist(), strict=True)]


def add_noise(
    wave: Tensor, lengths: Tensor | None, kind: str, snr_db: float, seed: int = 0, others: Sequence[Tensor] = ()
) -> Tensor:
    """`wave` (B, S) with noise that is `snr_db` dB below each row's own energy, both over valid samples.

    kind: ``white``; ``pink``, with as much energy in every octave from 20 Hz; ``babble``, up to four other recordings at once, equally
    loud and repeated where they are short: the batch's other rows, then `others`. lengths: (B,) valid samples, or ``None``.
    ValueError for another kind, and for babble without another recording.
    """
    if kind not in NOISES:
        raise ValueError(f"there is no noise called {kind!r}: choose among {', '.join(NOISES)}")
    rows, samples = wave.shape
    if kind == "babble":
        recordings = voices(wave, lengths)
        noise = torch.stack([_babble([*recordings[i + 1 :], *recordings[:i], *others], samples) for i in range(rows)])
    else:
        noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))
        if kind == "pink":
            spectrum = torch.fft.rfft(noise)
            pitch = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
            # Amplitude 1 / sqrt(f), so power 1 / f; nothing where nobody hears it, else half of the energy would go there.
            spectrum *= torch.where(pitch < LOWEST, 0, pitch.clamp(min=LOWEST).rsqrt())
            noise = torch.fft.irfft(spectrum, n=samples)
        noise = noise.to(wave.device)
    valid = valid_samples(wave, lengths)
    gain = (_energy(wave, valid) / _energy(noise, valid).clamp(min=1e-20) / 10 ** (snr_db / 10)).sqrt()
    return as_loud(wave + gain * noise, wave, valid)


def reverberate(wave: Tensor, lengths: Tensor | None, rt60: float, seed: int = 0, drr_db: float = 0.0) -> Tensor:
    """`wave` (B, S) in a room per row: a direct path and exponentially decaying noise behind it (Polack 1988; Lebart et al. 2001).

    rt60: seconds in which the tail falls by 60 dB; it ends there, and at the end of the row. drr_db: energy of the direct path over
    that of the tail, in dB; 0 stands for a talker at the room's critical distance. ValueError when `rt60` is not positive.
    """
    if rt60 <= 0:
        raise ValueError(f"rt60 must be a positive number of seconds, not {rt60}")
    rows, samples = wave.shape
    response = impulse_responses(rows, rt60, seed, drr_db).to(wave.device)
    valid = valid_samples(wave, lengths)
    size = samples + response.shape[1]  # a circle so long that nothing comes round
    wet = torch.fft.irfft(torch.fft.rfft(wave * valid, size) * torch.fft.rfft(response, size), size)[:, :samples]
    return as_loud(wet, wave, valid)


def impulse_responses(rows: int, rt60: float, seed: int = 0, drr_db: float = 0.0) -> Tensor:
    """(rows, L) responses of rooms that `reverberate` makes: 1 for the direct path, then the tail, with L = rt60 in samples."""
    size = max(2, round(rt60 * SAMPLE_RATE))
    time = torch.arange(size) / SAMPLE_RATE
    tail = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 10 ** (-3 * time / rt60)
    tail[:, 0] = 0
    tail *= (10 ** (-drr_db / 10) / tail.square().sum(1, keepdim=True)).sqrt()
    tail[:, 0] = 1
    return tail


def _babble(talkers: list[Tensor], samples: int) -> Tensor:
    """(samples,) of the first talkers that say something."""
    voiced = [voice for voice in talkers if voice.any()][:TALKERS]
    if not voiced:
        raise ValueError("babble needs at least two recordings that are not silent: add more, or choose another noise")
    loud = [voice / voice.square().mean().sqrt() for voice in voiced]
    return torch.stack([voice.repeat(-(-samples // len(voice)))[:samples] for voice in loud]).sum(0)


def valid_samples(wave: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, S) of 0 and 1: where a row is real audio."""
    if lengths is None:
        return torch.ones_like(wave)
    return (torch.arange(wave.shape[1], device=wave.device) < lengths.to(wave.device)[:, None]).to(wave.dtype)


def _energy(wave: Tensor, valid: Tensor) -> Tensor:
    """(B, 1) mean square over valid samples."""
    return (wave.square() * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)


def as_loud(wave: Tensor, before: Tensor, valid: Tensor) -> Tensor:
    """`wave` with the energy of `before` in every row, both over valid samples, and zero elsewhere."""
    return wave * valid * (_energy(before, valid) / _energy(wave, valid).clamp(min=1e-20)).sqrt()
