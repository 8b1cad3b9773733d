"""The front end of a stream: turns samples into frames; each frame is computed once.

It keeps the samples that later frames need, and running sums for norms over time. Only the samples that two chunks share are convolved
twice (80 of every 5,200 with chunks of 0.32 s).

B batch, S samples, C channels, T frames, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.encoder.frontend import ConvBlock, WaveFrontend
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.encoder.modules import ChannelNorm


class Sums:
    """Running mean and variance over the last axis, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.count += x.shape[-1]
        self.total = self.total + x.sum(-1, keepdim=True)
        self.squares = self.squares + x.square().sum(-1, keepdim=True)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) of everything added so far."""
        assert isinstance(self.total, Tensor)
        assert isinstance(self.squares, Tensor)
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)


class StreamFrontend:
    """`WaveFrontend` for a stream. A norm over time uses the audio so far, up to the last requested frame."""

    def __init__(self, frontend: WaveFrontend, normalize: bool) -> None:
        self.frontend, self.normalize, self.shape = frontend, normalize, frontend.config
        self.waiting: list[Tensor] = []  # samples from frame `taken` on
        self.received = self.taken = 0
        self.loudness, self.inner = Sums(), Sums()  # of samples; of the first convolution's output or of mel energies

    def push(self, wave: Tensor) -> None:
        """Appends samples (B, S). They are copied, because callers reuse their buffers."""
        self.waiting.append(wave.clone())
        self.received += wave.shape[1]

    @property
    def ready(self) -> int:
        """Number of frames that can be computed from the samples so far, including frames already taken."""
        return max(0, self.shape.frames(self.received)) if self.received else 0

    def take(self, count: int, ending: bool = False) -> Tensor:
        """The next `count` frames (B, T, D). ending: norms also count the samples after the last frame."""
        wave = torch.cat(self.waiting, dim=1)
        samples = (count - 1) * self.shape.stride + self.shape.kernel
        known = wave if ending else wave[:, :samples]
        if self.normalize:
            self.loudness.add(known[:, self.loudness.count - self.taken * self.shape.stride :])
        if isinstance(self.frontend.features, Fbank):
            x = self.fbank_features(self.frontend.features, known, count)
        else:
            x = self.wave_features(known, samples)
        self.taken += count
        self.waiting = [wave[:, count * self.shape.stride :].clone()]
        return self.frontend.projected(x)

    def add_new(self, x: Tensor, hop: int) -> None:
        """Adds the new part of `x` (B, C, steps of `hop` samples, starting at frame `taken`) to the inner sums."""
        self.inner.add(x[..., self.inner.count - self.taken * self.shape.stride // hop :])

    def fbank_features(self, fbank: Fbank, known: Tensor, count: int) -> Tensor:
        """Kaldi filter bank features; normalised per bin if the model does so."""
        logs = fbank.logarithms(known)
        count *= self.shape.join
        x = logs[:, : count * fbank.config.stack]
        if fbank.config.normalize:
            self.add_new(logs.transpose(1, 2), fbank.config.hop)
            mean, variance = (x.transpose(1, 2) for x in self.inner.moments())
            variance = variance * (self.inner.count / max(1, self.inner.count - 1))
            x = ((x - mean) * torch.rsqrt(variance + 1e-7)).float()
        return x.reshape(len(x), count, fbank.config.dim)

    def wave_features(self, known: Tensor, samples: int) -> Tensor:
        first, *rest = self.frontend.convs
        assert isinstance(first, ConvBlock)
        x = known[:, None, :samples]
        mean = scale = None
        if self.normalize:
            mean, variance = self.loudness.moments()
            scale = torch.sqrt(variance + 1e-7)
        if isinstance(first.norm, ChannelNorm):
            x = self.group_normed(first, first.norm, known, samples, scale)
        else:
            x = x if mean is None or scale is None else ((x - mean[:, None]) / scale[:, None]).float()
            x = first(x, None)
        for block in rest:
            x = block(x, None)
        return x.transpose(1, 2)

    def group_normed(self, block: ConvBlock, norm: ChannelNorm, known: Tensor, samples: int, scale: Tensor | None) -> Tensor:
        """The first convolution, normalised per channel over all of its output so far.

        The sums are over the convolution of raw samples, so they stay valid when the waveform's normalisation changes. The norm removes any
        offset and scale of the waveform; only its epsilon must be scaled.
        """
        conv = block.conv
        steps = F.conv1d(known[:, None], conv.weight, None, conv.stride)
        self.add_new(steps, conv.stride[0])
        mean, variance = self.inner.moments()
        small = norm.eps * (1.0 if scale is None else scale.square()[..., None])
        x = (steps[..., : (samples - conv.kernel_size[0]) // conv.stride[0] + 1] - mean) * torch.rsqrt(variance + small)
        return block.act(x.float() * norm.weight[:, None] + norm.bias[:, None])
