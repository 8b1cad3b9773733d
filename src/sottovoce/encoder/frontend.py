"""From the waveform to frames: strided convolutions or a filter bank, layer norm, projection.

B batch, S samples, C channels, T frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sottovoce.encoder.config import ConvConfig, FrontendConfig
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.encoder.modules import ChannelNorm, LayerNorm, activation
from sottovoce.encoder.product import Conv1d, Linear


class ConvBlock(nn.Module):
    """Convolution, norm (none, per channel over time, or over channels), activation: (B, C_in, T_in) -> (B, C, T)."""

    def __init__(self, dim_in: int, config: ConvConfig, norm: str, bias: bool, act: str) -> None:
        super().__init__()
        self.conv = Conv1d(dim_in, config.dim, config.kernel, config.stride, bias=bias)
        self.norm: ChannelNorm | LayerNorm | None = None
        if norm == "group":
            self.norm = ChannelNorm(config.dim)
        elif norm == "layer":
            self.norm = LayerNorm(config.dim)
        self.act = activation(act)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        x = self.conv(x)
        if isinstance(self.norm, ChannelNorm):
            x = self.norm(x, valid)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.act(x)


class WaveFrontend(nn.Module):
    """(B, S) samples and (B,) lengths -> (B, T, D) frames and (B,) frame counts."""

    def __init__(self, config: FrontendConfig, dim: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.config = config
        norms = [config.norm] + ["none" if config.norm == "group" else config.norm] * (len(config.convs) - 1)
        dims = [1, *(conv.dim for conv in config.convs)]
        self.convs = nn.ModuleList(
            ConvBlock(dims[i], conv, norms[i], config.bias, config.activation) for i, conv in enumerate(config.convs)
        )
        self.fbank = Fbank(config.fbank) if config.fbank is not None else None
        self.norm = LayerNorm(config.width, eps) if config.projection_norm else nn.Identity()
        self.projection = Linear(config.width * config.join, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if wave.dim() != 2:
            raise ValueError(f"expected a batch of waveforms (batch, samples), got shape {tuple(wave.shape)}")
        if wave.shape[1] < self.config.kernel:
            raise ValueError(f"{wave.shape[1]} samples are too few: one frame needs {self.config.kernel} (16 kHz)")
        if self.fbank is not None:
            x = self.fbank(wave, lengths).to(self.projection.weight.dtype)
        else:
            x = self.convolved(wave, lengths)
        x = self.dropout(self.projected(x))
        return x, None if lengths is None else self.config.frames(lengths).clamp(min=0)

    def projected(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T / join, D); frames that are too few to be joined are left out.

        Joined frames stand beside each other channel by channel, so that a channel that is cut takes neighbouring columns with it.
        """
        x, join = self.norm(x), self.config.join
        if join > 1:
            x = x[:, : x.shape[1] // join * join].unflatten(1, (-1, join)).transpose(2, 3).flatten(2)
        projected: Tensor = self.projection(x)
        return projected

    def convolved(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) -> (B, T, C)."""
        valid = None
        if lengths is not None and self.config.norm == "group" and not self.config.norm_over_padding:
            first = self.config.convs[0]
            steps = torch.arange((wave.shape[1] - first.kernel) // first.stride + 1, device=wave.device)
            valid = (steps < ((lengths - first.kernel) // first.stride + 1)[:, None])[:, None].float()
        x = wave[:, None].to(self.projection.weight.dtype)  # a model in half precision takes waves as they come
        for block in self.convs:
            x = block(x, valid)
        return x.transpose(1, 2)


def normalize(wave: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance per row of (B, S), over valid samples; padding becomes 0. As Wav2Vec2FeatureExtractor does it."""
    if lengths is None:
        return (wave - wave.mean(-1, keepdim=True)) / torch.sqrt(wave.var(-1, correction=0, keepdim=True) + 1e-7)
    valid = (torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]).to(wave.dtype)
    share = valid / valid.sum(-1, keepdim=True).clamp(min=1)
    mean = (wave * share).sum(-1, keepdim=True)
    variance = ((wave - mean).square() * share).sum(-1, keepdim=True)
    return (wave - mean) / torch.sqrt(variance + 1e-7) * valid
