"""The front end of a stream: samples in, frames out, each computed once.

The samples under frames to come are kept; all else that is left of the past are sums. Convolutions are computed again on the few samples
that neighbouring frames share (80 of every 5,200 with chunks of 0.32 s).

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
    """Mean and variance over the last axis of all that was added, in float64."""

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
        """Mean, and variance around it."""
        assert isinstance(self.total, Tensor)
        assert isinstance(self.squares, Tensor)
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)


class Ears:
    """`WaveFrontend` for a stream. Where it norms over time, it norms by what was heard so far, up to the last frame asked for."""

    def __init__(self, frontend: WaveFrontend, normalize: bool) -> None:
        self.frontend, self.normalize, self.shape = frontend, normalize, frontend.config
        self.waiting: list[Tensor] = []  # samples from frame `taken` on
        self.heard = self.taken = 0
        self.loudness, self.inner = Sums(), Sums()  # of samples; of the first convolution's output or of mel energies

    def hear(self, wave: Tensor) -> None:
        """(B, S). Copied: a microphone's buffer is written over."""
        self.waiting.append(wave.clone())
        self.heard += wave.shape[1]

    @property
    def ready(self) -> int:
        """Frames that can be had, those that were taken included."""
        return max(0, self.shape.frames(self.heard)) if self.heard else 0

    def take(self, count: int, ending: bool = False) -> Tensor:
        """The next `count` frames (B, T, D). `ending`: samples after the last of them were heard, too, and count for the norms."""
        wave = torch.cat(self.waiting, dim=1)
        samples = (count - 1) * self.shape.stride + self.shape.kernel
        known = wave if ending else wave[:, :samples]
        if self.normalize:
            self.loudness.add(known[:, self.loudness.count - self.taken * self.shape.stride :])
        if self.frontend.fbank is not None:
            x = self.banked(self.frontend.fbank, known, count)
        else:
            x = self.convolved(known, samples)
        self.taken += count
        self.waiting = [wave[:, count * self.shape.stride :].clone()]
        return self.frontend.projected(x)

    def new(self, x: Tensor, hop: int) -> None:
        """Adds to the inner sums those of `x` (B, C, steps of `hop` samples from frame `taken` on) that were not there before."""
        self.inner.add(x[..., self.inner.count - self.taken * self.shape.stride // hop :])

    def banked(self, fbank: Fbank, known: Tensor, count: int) -> Tensor:
        """Kaldi's filter bank, zero mean and unit variance per bin where the model has it so."""
        logs = fbank.logarithms(known)
        count *= self.shape.join
        x = logs[:, : count * fbank.config.stack]
        if fbank.config.normalize:
            self.new(logs.transpose(1, 2), fbank.config.hop)
            mean, variance = (x.transpose(1, 2) for x in self.inner.moments())
            variance = variance * (self.inner.count / max(1, self.inner.count - 1))
            x = ((x - mean) * torch.rsqrt(variance + 1e-7)).float()
        return x.reshape(len(x), count, fbank.config.dim)

    def convolved(self, known: Tensor, samples: int) -> Tensor:
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
        """The first convolution, normed per channel by all of its output so far.

        The sums are of its output on raw samples, so that they stay true when the loudness changes: a norm takes away whatever
        offset and scale the waveform was given, but for the smallness that keeps it from dividing by zero.
        """
        conv = block.conv
        steps = F.conv1d(known[:, None], conv.weight, None, conv.stride)
        self.new(steps, conv.stride[0])
        mean, variance = self.inner.moments()
        small = norm.eps * (1.0 if scale is None else scale.square()[..., None])
        x = (steps[..., : (samples - conv.kernel_size[0]) // conv.stride[0] + 1] - mean) * torch.rsqrt(variance + small)
        return block.act(x.float() * norm.weight[:, None] + norm.bias[:, None])
