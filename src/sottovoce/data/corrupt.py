"""Synthetic noise and reverberation. The same seed gives the same result on any device.

Every function keeps the shape (B, S) and the energy of each row, so normalised input stays normalised. Padding stays zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE

NOISES = ("white", "pink", "babble")
TALKERS = 4  # most voices in babble
LOWEST = 20.0  # Hz, lowest frequency of pink noise


def voices(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The rows of (B, S) without their padding."""
    return list(wave) if lengths is None else [row[:end] for row, end in zip(wave, lengths.tolist(), strict=True)]


def add_noise(
    wave: Tensor, lengths: Tensor | None, kind: str, snr_db: float, seed: int = 0, others: Sequence[Tensor] = ()
) -> Tensor:
    """Add noise to `wave` (B, S), `snr_db` dB below the energy of each row, measured over valid samples.

    kind: ``white``; ``pink``, with equal energy in every octave from 20 Hz; ``babble``, the sum of up to four other recordings of equal
    energy, repeated where they are short: first the other rows of the batch, then `others`. lengths: (B,) valid samples, or ``None``.
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
            # Amplitude 1 / sqrt(f), so power 1 / f. Nothing below 20 Hz: half of the energy would be inaudible.
            spectrum *= torch.where(pitch < LOWEST, 0, pitch.clamp(min=LOWEST).rsqrt())
            noise = torch.fft.irfft(spectrum, n=samples)
        noise = noise.to(wave.device)
    valid = valid_samples(wave, lengths)
    gain = (energy(wave, valid) / energy(noise, valid).clamp(min=1e-20) / 10 ** (snr_db / 10)).sqrt()
    return as_loud(wave + gain * noise, wave, valid)


def reverberate(wave: Tensor, lengths: Tensor | None, rt60: float, seed: int = 0, drr_db: float = 0.0) -> Tensor:
    """Reverberate `wave` (B, S), with one random room per row.

    The response is a direct path and exponentially decaying noise (Polack 1988; Lebart et al. 2001). rt60: seconds in which the tail falls
    by 60 dB; the tail ends there. drr_db: direct-to-reverberant energy ratio in dB; 0 is a talker at the critical distance. ValueError when
    `rt60` is not positive.
    """
    if rt60 <= 0:
        raise ValueError(f"rt60 must be a positive number of seconds, not {rt60}")
    rows, samples = wave.shape
    response = impulse_responses(rows, rt60, seed, drr_db).to(wave.device)
    valid = valid_samples(wave, lengths)
    size = samples + response.shape[1]  # long enough to avoid circular wrap-around
    wet = torch.fft.irfft(torch.fft.rfft(wave * valid, size) * torch.fft.rfft(response, size), size)[:, :samples]
    return as_loud(wet, wave, valid)


def impulse_responses(rows: int, rt60: float, seed: int = 0, drr_db: float = 0.0) -> Tensor:
    """(rows, L) room impulse responses for `reverberate`: 1 for the direct path, then the tail. L = rt60 in samples."""
    size = max(2, round(rt60 * SAMPLE_RATE))
    time = torch.arange(size) / SAMPLE_RATE
    tail = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 10 ** (-3 * time / rt60)
    tail[:, 0] = 0
    tail *= (10 ** (-drr_db / 10) / tail.square().sum(1, keepdim=True)).sqrt()
    tail[:, 0] = 1
    return tail


def _babble(talkers: list[Tensor], samples: int) -> Tensor:
    """(samples,) sum of the first `TALKERS` talkers that are not silent."""
    voiced = [voice for voice in talkers if voice.any()][:TALKERS]
    if not voiced:
        raise ValueError("babble needs at least two recordings that are not silent: add more, or choose another noise")
    loud = [voice / voice.square().mean().sqrt() for voice in voiced]
    return torch.stack([voice.repeat(-(-samples // len(voice)))[:samples] for voice in loud]).sum(0)


def valid_samples(wave: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, S) mask: 1 for audio, 0 for padding."""
    if lengths is None:
        return torch.ones_like(wave)
    return (torch.arange(wave.shape[1], device=wave.device) < lengths.to(wave.device)[:, None]).to(wave.dtype)


def energy(wave: Tensor, valid: Tensor) -> Tensor:
    """(B, 1) mean square over valid samples."""
    return (wave.square() * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)


def as_loud(wave: Tensor, before: Tensor, valid: Tensor) -> Tensor:
    """Scale each row of `wave` to the energy of `before` over valid samples; set the rest to zero."""
    return wave * valid * (energy(before, valid) / energy(wave, valid).clamp(min=1e-20)).sqrt()
