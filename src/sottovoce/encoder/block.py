"""One Transformer layer. Each part may be narrower, constant or removed."""

from __future__ import annotations

from torch import Tensor, nn

from sottovoce.encoder.attention import Attention, AttentionMap
from sottovoce.encoder.config import EncoderConfig, LayerConfig
from sottovoce.encoder.context import Sight
from sottovoce.encoder.modules import LayerNorm, Offset, activation, constant
from sottovoce.encoder.product import Linear


class FeedForward(nn.Module):
    """A feed-forward part with `units` units: (B, T, D) -> (B, T, D). inner, outer: dropout rates."""

    def __init__(self, dim: int, units: int, act: str, inner: float, outer: float) -> None:
        super().__init__()
        self.down_proj: nn.Linear | Offset = Linear(units, dim) if units else Offset(dim)
        if units:
            self.up_proj = Linear(dim, units)
        self.act, self.inner, self.outer = activation(act), nn.Dropout(inner), nn.Dropout(outer)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.down_proj, Offset) or self.up_proj.weight.shape[0] == 0:
            return self.outer(constant(self.down_proj, x))
        return self.outer(self.down_proj(self.inner(self.act(self.up_proj(x)))))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual sum. The norm follows the sum (Base models) or precedes the part (`norm_first`)."""

    def __init__(self, config: EncoderConfig, layer: LayerConfig) -> None:
        super().__init__()
        rates = config.dropout
        self.norm_first = config.norm_first
        self.attention = Attention(config, layer) if layer.attention else None
        self.attention_norm = LayerNorm(config.dim, config.norm_eps, config.norm_bias)
        self.ffn = FeedForward(config.dim, layer.ffn_dim, config.activation, rates.ffn, rates.hidden) if layer.ffn else None
        self.ffn_norm = LayerNorm(config.dim, config.norm_eps, config.norm_bias)
        self.dropout = nn.Dropout(rates.hidden)

    def forward(
        self, x: Tensor, sight: Sight | None, table: Tensor | None, below: AttentionMap | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the layer's output, and its feed-forward part's output before the residual sum."""
        if self.norm_first:
            if self.attention is not None:
                x = x + self.dropout(self.attention(self.attention_norm(x), sight, table, below))
            tap = self.ffn(self.ffn_norm(x)) if self.ffn is not None else x.new_zeros(x.shape)
            return x + tap, tap
        if self.attention is not None:
            x = x + self.dropout(self.attention(x, sight, table, below))
        x = self.attention_norm(x)
        tap = self.ffn(x) if self.ffn is not None else x.new_zeros(x.shape)
        return self.ffn_norm(x + tap), tap
