"""From the waveform to frames: features of it or the wave itself, strided convolutions, layer norm, projection.

B batch, S samples, C channels, T frames, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.config import FbankConfig, FrontendConfig, LogMelConfig, Step, after
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.encoder.modules import ChannelNorm, LayerNorm, WholeNorm, activation
from sottovoce.encoder.product import Conv1d, Linear
from sottovoce.encoder.relative_log_mel import RelativeLogMel

NORMS: dict[str, type[ChannelNorm] | type[WholeNorm] | type[LayerNorm]] = {
    "group": ChannelNorm,
    "whole": WholeNorm,
    "layer": LayerNorm,
}


class ConvBlock(nn.Module):
    """The i-th convolution, norm (none, per channel over time, over channels, or over both, behind the activation), and activation:
    (B, C_in, T_in) -> (B, C, T)."""

    def __init__(self, config: FrontendConfig, i: int) -> None:
        super().__init__()
        conv = config.convs[i]
        dim_in = config.convs[i - 1].dim if i else config.inputs
        self.padding = conv.padding
        self.conv = Conv1d(dim_in, conv.dim, conv.kernel, conv.stride, bias=config.biased(i))
        normed = config.norm == "layer" or (i == 0 and config.norm in NORMS)
        self.norm = NORMS[config.norm](conv.dim) if normed else None
        self.act = activation(conv.activation or config.activation)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`valid` (B, 1, T): 1 on the steps that a norm over time is to know."""
        x = self.conv(F.pad(x, (self.padding, self.padding)) if self.padding else x)
        if isinstance(self.norm, WholeNorm):
            return self.norm(self.act(x), valid)
        if isinstance(self.norm, ChannelNorm):
            x = self.norm(x, valid)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.act(x)


def features_of(config: FbankConfig | LogMelConfig | None) -> Fbank | RelativeLogMel | None:
    """The module that makes them of waves, (B, S) and (B,) lengths or ``None`` -> (B, T, C)."""
    if config is None:
        return None
    return Fbank(config) if isinstance(config, FbankConfig) else RelativeLogMel(config)


class WaveFrontend(nn.Module):
    """(B, S) samples and (B,) lengths -> (B, T, D) frames and (B,) frame counts.

    In place of samples it takes log-mel features that were made of them elsewhere, (B, 10 ms windows, mels); lengths are in samples.
    """

    def __init__(self, config: FrontendConfig, dim: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList(ConvBlock(config, i) for i in range(len(config.convs)))
        self.features = features_of(config.features)
        self.norm = LayerNorm(config.width, eps) if config.projection_norm else nn.Identity()
        self.projection: Linear | Conv1d
        if config.projection is None:
            self.projection = Linear(config.width * config.join, dim)
        else:
            self.projection = Conv1d(config.width, dim, config.projection.kernel, config.projection.stride)
        self.act = activation(config.activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        features = wave.dim() == 3 and self.config.log_mel is not None
        if wave.dim() != 2 and not features:
            raise ValueError(f"expected a batch of waveforms (batch, samples), got shape {tuple(wave.shape)}")
        if wave.shape[1] < self.config.kernel and not features:
            raise ValueError(f"{wave.shape[1]} samples are too few: one frame needs {self.config.kernel} (16 kHz)")
        if self.features is None:
            x, count = wave[..., None], lengths
        else:
            x, count = wave if features else self.features(wave, lengths), lengths
            for step in self.features.config.steps:
                count = None if count is None else after(count, step)
        x = x.to(self.projection.weight.dtype)  # a model in half precision takes waves as they come
        if self.convs:
            x, count = self.convolved(x, count)
        x = self.dropout(self.projected(x, count))
        return x, None if lengths is None else self.config.frames(lengths).clamp(min=0)

    def projected(self, x: Tensor, count: Tensor | None = None) -> Tensor:
        """(B, T, C), of which `count` (B,) are valid, -> (B, T / join, D); frames that are too few to be joined are left out.

        Joined frames stand beside each other channel by channel, so that a channel that is cut takes neighbouring columns with it.
        """
        x, join, shape = self.norm(x), self.config.join, self.config.projection
        if shape is not None:
            x = without_padding(x.transpose(1, 2), shape.padding, count)
            x = self.projection(F.pad(x, (shape.padding, shape.padding)))
            return self.act(x).transpose(1, 2)
        if join > 1:
            x = x[:, : x.shape[1] // join * join].unflatten(1, (-1, join)).transpose(2, 3).flatten(2)
        projected: Tensor = self.projection(x)
        return projected

    def convolved(self, x: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, T, C), of which `count` (B,) are valid, -> the same behind the convolutions."""
        over_time = self.config.norm in ("group", "whole") and not self.config.norm_over_padding
        x = x.transpose(1, 2)
        for i, (block, conv) in enumerate(zip(self.convs, self.config.convs, strict=True)):
            step: Step = (conv.kernel, conv.stride, conv.padding)
            x, valid = without_padding(x, conv.padding, count), None
            count = None if count is None else after(count, step)
            if count is not None and over_time and i == 0:
                valid = inside(after(x.shape[2], step), count).float()
            x = block(x, valid)
        return x.transpose(1, 2), count


def inside(steps: int, count: Tensor) -> Tensor:
    """(B, 1, steps) bool, true on the first `count` (B,) of them."""
    return (torch.arange(steps, device=count.device) < count[:, None])[:, None]


def without_padding(x: Tensor, padding: int, count: Tensor | None) -> Tensor:
    """(B, C, T) for a convolution that sees `padding` steps beyond the ends: zeros behind the valid ones, as where nothing is padded."""
    return x if count is None or not padding else x * inside(x.shape[2], count).to(x.dtype)


def normalize(wave: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance per row of (B, S), over valid samples; padding becomes 0. As Wav2Vec2FeatureExtractor does it."""
    if lengths is None:
        return (wave - wave.mean(-1, keepdim=True)) / torch.sqrt(wave.var(-1, correction=0, keepdim=True) + 1e-7)
    valid = (torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]).to(wave.dtype)
    share = valid / valid.sum(-1, keepdim=True).clamp(min=1)
    mean = (wave * share).sum(-1, keepdim=True)
    variance = ((wave - mean).square() * share).sum(-1, keepdim=True)
    return (wave - mean) / torch.sqrt(variance + 1e-7) * valid
