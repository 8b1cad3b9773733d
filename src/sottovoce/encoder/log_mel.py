"""Log-mel features on the encoders' frame grid: frame t stands on samples [320 t, 320 t + 400) of 16 kHz audio."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def mel_filters(bins: int, mels: int, rate: float, low: float = 20.0, device: torch.device | None = None) -> Tensor:
    """(bins, mels) triangles, equally spaced on the HTK mel scale between `low` Hz and half the sampling rate."""
    first, last = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (low, rate / 2))
    edges = torch.linspace(first, last, mels + 2, device=device)
    points = 2595.0 * torch.log10(1.0 + torch.linspace(0, rate / 2, bins, device=device) / 700.0)[:, None]
    rising = (points - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - points) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def windows(samples: Tensor, size: int, hop: int) -> Tensor:
    """Windows of `size` samples, one every `hop`, that fit into so many samples (integers, any shape)."""
    return ((samples - size) // hop + 1).clamp(min=0)


class LogMel(nn.Module):
    """(B, S) samples -> (B, T, mels) natural logarithms of mel energies; 25 ms Hann windows every 20 ms, no padding."""

    filters: Tensor
    window: Tensor

    def __init__(self, mels: int = 80, size: int = 400, hop: int = 320, rate: int = 16_000) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.register_buffer("filters", mel_filters(size // 2 + 1, mels, rate), persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """Frames that come out of so many samples (integers, any shape)."""
        return windows(samples, self.size, self.hop)

    def forward(self, wave: Tensor) -> Tensor:
        frames = wave.float().unfold(-1, self.size, self.hop)
        frames = (frames - frames.mean(-1, keepdim=True)) * self.window
        power = torch.fft.rfft(frames).abs().square()
        return torch.log(power @ self.filters + 1e-10)


def mfcc(logmel: Tensor, count: int = 13) -> Tensor:
    """(B, T, mels) log-mel -> (B, T, 3 * count): cepstra by an orthonormal DCT-II, and their first and second time differences."""
    mels = logmel.shape[-1]
    at = (torch.arange(mels, device=logmel.device) + 0.5) * math.pi / mels
    basis = torch.cos(at[:, None] * torch.arange(count, device=logmel.device)) * math.sqrt(2.0 / mels)
    basis[:, 0] /= math.sqrt(2.0)
    parts = [logmel @ basis]
    for _ in range(2):
        parts.append(slope(parts[-1]))
    return torch.cat(parts, dim=-1)


def slope(x: Tensor, reach: int = 1) -> Tensor:
    """(B, T, D) -> (B, T, D): slope of the line through each frame and `reach` to both sides; the ends are repeated beyond the ends."""
    padded = nn.functional.pad(x.transpose(1, 2), (reach, reach), mode="replicate").transpose(1, 2)
    total, frames = torch.zeros_like(x), x.shape[1]
    for n in range(1, reach + 1):
        after, before = padded[:, reach + n : reach + n + frames], padded[:, reach - n : reach - n + frames]
        total = total + n * (after - before)
    return total / (2 * sum(n * n for n in range(1, reach + 1)))
