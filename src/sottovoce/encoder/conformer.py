"""One Conformer layer (Gulati et al., arXiv 2005.08100). Each part may be narrower, constant or removed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.attention import Attention, AttentionMap
from sottovoce.encoder.block import FeedForward
from sottovoce.encoder.config import EncoderConfig, LayerConfig
from sottovoce.encoder.context import Sight, convolved_in_chunks
from sottovoce.encoder.modules import FixedNorm, LayerNorm, activation
from sottovoce.encoder.product import Linear


class Convolution(nn.Module):
    """Gated linear units, depthwise convolution over time, norm, activation, projection: (B, T, D) -> (B, T, D) with C `channels`.

    Rows 2c and 2c + 1 of `in_proj` are value and gate of channel c, so that pruning selects blocks of two rows.
    """

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        shape = config.convolution
        self.before = shape.kernel - 1 if shape.causal else shape.kernel // 2
        self.after = shape.kernel - 1 - self.before
        self.blind = self.after > 0 and not config.frontend.norm_over_padding  # must not see padding
        self.in_proj = Linear(config.dim, 2 * channels, bias=False)
        self.depthwise = nn.Conv1d(channels, channels, shape.kernel, groups=channels, bias=False)
        self.norm = LayerNorm(channels, config.norm_eps) if shape.norm == "layer" else FixedNorm(channels)
        self.act = activation(config.activation)
        self.out_proj = Linear(channels, config.dim, bias=False)

    def forward(self, x: Tensor, sight: Sight | None = None) -> Tensor:
        weight = self.depthwise.weight
        if weight.shape[0] == 0:
            return x.new_zeros(x.shape)
        value, gate = self.in_proj(x).unflatten(-1, (-1, 2)).unbind(-1)
        y = value * gate.sigmoid()
        if sight is not None and sight.inside is not None and self.blind:
            y = y * sight.inside[..., None].to(y.dtype)
        y = y.transpose(1, 2)
        if sight is not None and sight.chunk and self.after:
            y = convolved_in_chunks(y, weight, None, self.before, self.after, weight.shape[0], sight.chunk)
        else:
            y = F.conv1d(F.pad(y, (self.before, self.after)), weight, groups=weight.shape[0])
        projected: Tensor = self.out_proj(self.act(self.norm(y.transpose(1, 2))))
        return projected


class ConformerLayer(nn.Module):
    """Half-step feed-forward, attention, convolution and half-step feed-forward, each with a norm and a residual sum; then a norm."""

    def __init__(self, config: EncoderConfig, layer: LayerConfig) -> None:
        super().__init__()
        rates = config.dropout
        norm = (config.dim, config.norm_eps, config.norm_bias)
        parts = (config.activation, rates.ffn, rates.hidden)
        self.ffn1_norm = LayerNorm(*norm)
        self.ffn1 = FeedForward(config.dim, layer.ffn1_dim, *parts) if layer.ffn1 else None
        self.attention_norm = LayerNorm(*norm)
        self.attention = Attention(config, layer) if layer.attention else None
        self.convolution_norm = LayerNorm(*norm)
        self.convolution = Convolution(config, layer.glu_dim) if layer.glu_dim else None
        self.ffn_norm = LayerNorm(*norm)
        self.ffn = FeedForward(config.dim, layer.ffn_dim, *parts) if layer.ffn else None
        self.norm = LayerNorm(*norm)
        self.dropout, self.convolution_dropout = nn.Dropout(rates.attention), nn.Dropout(rates.convolution)

    def forward(
        self, x: Tensor, sight: Sight | None, table: Tensor | None, below: AttentionMap | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the layer's output, and its second feed-forward part's output before it is halved and added."""
        if self.ffn1 is not None:
            x = x + 0.5 * self.ffn1(self.ffn1_norm(x))
        if self.attention is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), sight, table, below))
        if self.convolution is not None:
            x = x + self.convolution_dropout(self.convolution(self.convolution_norm(x), sight))
        tap = self.ffn(self.ffn_norm(x)) if self.ffn is not None else x.new_zeros(x.shape)
        return self.norm(x + 0.5 * tap), tap
