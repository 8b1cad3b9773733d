"""Self-attention. All models use scaled_dot_product_attention; position terms are its bias. Only maps that layers share are written out.

B batch, T frames, D width, H heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.config import EncoderConfig, LayerConfig
from sottovoce.encoder.context import Sight
from sottovoce.encoder.distance import HeadRotary, KeyDistance, Rotary, SinusoidDistance
from sottovoce.encoder.modules import Offset, constant
from sottovoce.encoder.product import Linear


class RelativeGate(nn.Module):
    """Weights the shared relative position table per head and query (WavLM, arXiv 2110.13900).

    A head's gate reads the slice of the layer input at the head's original place, so pruned models store the original numbers in `heads`.
    """

    heads: Tensor

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, config.head_dim))
        self.bias = nn.Parameter(torch.zeros(8))
        self.const = nn.Parameter(torch.ones(config.num_heads))
        self.register_buffer("heads", torch.tensor(config.heads, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        rows, frames = x.shape[:2]
        width = self.weight.shape[1]
        x_BTHE = x.view(rows, frames, -1, width)[:, :, self.heads]
        # transformers sums four outputs per gate; summing the weights first is equivalent and four times cheaper
        weight, bias = self.weight.view(2, 4, width).sum(1), self.bias.view(2, 4).sum(1)
        gate_BHT2 = torch.sigmoid(F.linear(x_BTHE, weight, bias)).transpose(1, 2)
        a, b = gate_BHT2[..., :1], gate_BHT2[..., 1:]
        return (a * (b * self.const[:, None, None] - 1.0) + 2.0) * table[self.heads]


class AttentionMap:
    """The map of the newest layer that has computed one for the layers above: (B, H, T, T) shares of frames for frames, before dropout."""

    shares: Tensor

    def mean(self, attention: Attention | None, x: Tensor) -> Tensor:
        """(B, T, T) the map of `attention`, which has just heard frames like x (B, T, D), averaged over heads; zeros without any."""
        if attention is None or attention.empty:
            return x.new_zeros(len(x), x.shape[1], x.shape[1])
        return self.shares.mean(1)


class Attention(nn.Module):
    """Self-attention: (B, T, D) -> (B, T, D). sight: which frames see which; ``None``: all see all. table: the position terms that all
    layers share: a relative table (heads, T, T), the result of `distance.shared_table`, or ``None``. below: where the map is kept or taken,
    if layers share it (`LayerConfig.reuse`) or it is asked for."""

    query_channels: Tensor | None
    value_channels: Tensor | None

    def __init__(self, config: EncoderConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.reuse = layer.reuse
        dim, kind = config.dim, "" if config.distance is None else config.distance.kind
        self.head_dim, self.dropout = layer.head_dim, config.dropout.attention
        # as buffers, so that a gated encoder knows how many are open; None: all
        for name, channels in (("query_channels", layer.query_dim), ("value_channels", layer.value_dim)):
            self.register_buffer(name, torch.arange(channels) if channels else None, persistent=False)
        compared, size = layer.num_heads * layer.query_width, layer.num_heads * layer.value_width
        biased = {name: name in config.attention_bias for name in "qkvo"}
        self.out_proj: nn.Linear | Offset = Linear(size, dim, biased["o"]) if size else Offset(dim, biased["o"])
        if size and self.reuse:
            self.v_proj = Linear(dim, size, biased["v"])
        elif size:
            self.q_proj, self.k_proj = (Linear(dim, compared, biased[name]) for name in "qk")
            self.v_proj = Linear(dim, size, biased["v"])
            self.gate = RelativeGate(layer) if config.relative is not None else None
            self.rotary = Rotary(config.distance, layer.head_dim) if config.distance is not None and kind == "rotary" else None
            self.turn = HeadRotary(config.distance) if config.distance is not None and kind == "rotary_heads" else None
            self.distance: KeyDistance | SinusoidDistance | None = None
            if config.distance is not None and kind == "key":
                self.distance = KeyDistance(config.distance, layer.head_dim)
            elif kind == "sinusoid":
                self.distance = SinusoidDistance(dim, layer.num_heads, layer.head_dim)

    def forward(self, x: Tensor, sight: Sight | None, table: Tensor | None, below: AttentionMap | None = None) -> Tensor:
        if self.empty:
            return constant(self.out_proj, x)
        rows, frames = x.shape[:2]
        if self.reuse:
            assert below is not None
            return self.outputs(below.shares, self.v_proj(x).view(rows, frames, -1, self.value_width).transpose(1, 2))
        turned = x if self.rotary is None else self.rotary(x)
        q, k, v = (
            proj(y).view(rows, frames, -1, width).transpose(1, 2)
            for proj, y, width in (
                (self.q_proj, turned, self.query_width),
                (self.k_proj, turned, self.query_width),
                (self.v_proj, x, self.value_width),
            )
        )
        if self.turn is not None:
            q, k = self.turn(q), self.turn(k)
        bias, mask = None, None if sight is None else sight.keys
        if self.gate is not None and table is not None:
            bias = self.gate(x, table)
        elif self.distance is not None and table is not None:
            q, bias = self.distance(q, table)
        if bias is not None:
            mask = (bias if mask is None else bias.masked_fill(~mask, float("-inf"))).to(q.dtype)
        if below is not None:
            below.shares = shares(q, k, mask, self.scale)
            return self.outputs(below.shares, v)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale)
        return self.out_proj(y.transpose(1, 2).reshape(rows, frames, -1))

    @property
    def empty(self) -> bool:
        """Whether it has no heads."""
        return isinstance(self.out_proj, Offset) or self.v_proj.weight.shape[0] == 0

    @property
    def query_width(self) -> int:
        """Channels of a head's queries and keys."""
        return self.head_dim if self.query_channels is None else len(self.query_channels)

    @property
    def value_width(self) -> int:
        """Channels of a head's values."""
        return self.head_dim if self.value_channels is None else len(self.value_channels)

    @property
    def scale(self) -> float | None:
        """Of scores; ``None``: by the channels that there are."""
        return None if self.query_channels is None else float(self.head_dim**-0.5)

    def outputs(self, shares: Tensor, v: Tensor) -> Tensor:
        """Weighs values (B, H, K, E) by a map (B, H, T, K) -> (B, T, D)."""
        y = F.dropout(shares, self.dropout, self.training) @ v
        outputs: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return outputs


def shares(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """The attention map of queries (B, H, T, E) and keys (B, H, K, E): (B, H, T, K). mask: bool, true where a key is seen, or a bias."""
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)
