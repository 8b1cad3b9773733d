"""Position terms of attention that depend on the distance of two frames. B batch, T frames, H heads, E head width, D encoder width.

Scores are computed once per distance and then gathered for all pairs of frames, which needs no tensor of (T, T, E).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.config import DistanceConfig
from sottovoce.encoder.product import Linear


def shared_table(config: DistanceConfig, frames: int, dim: int, like: Tensor) -> Tensor | None:
    """The table that all layers share, for T `frames`, on the device of `like`. For "key": (T, T) indices of the distances' vectors. For
    "sinusoid": (2T - 1, D) sinusoids of the distances T - 1 (keys to the left) to 1 - T, in the dtype of `like`. Else ``None``."""
    if config.kind == "key":
        at = torch.arange(frames, device=like.device)
        return (at[None, :] - at[:, None]).clamp(-config.left, config.right) + config.left
    if config.kind == "sinusoid":
        distance = torch.arange(frames - 1, -frames, -1, device=like.device, dtype=torch.float32)
        return sinusoids(distance, dim).to(like.dtype)
    return None


def sinusoids(distance: Tensor, dim: int) -> Tensor:
    """(N,) float32 distances -> (N, D)."""
    rate = torch.exp(torch.arange(0, dim, 2, device=distance.device) * (-math.log(10_000.0) / dim))
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class KeyDistance(nn.Module):
    """Learned vectors, one per clipped distance, shared by the layer's heads; their product with the query is added to its scores."""

    def __init__(self, config: DistanceConfig, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.left + config.right + 1, head_dim))

    def forward(self, q: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, E) queries -> the queries, and (B, H, T, T) to add to their scores."""
        scores = q @ self.weight.t() * q.shape[-1] ** -0.5
        return q, scores.gather(-1, table.expand(*q.shape[:2], -1, -1))


class SinusoidDistance(nn.Module):
    """Transformer-XL's positions (arXiv 1901.02860): the query plus `v` times projected sinusoids of the distance; the query plus `u` meets
    the keys."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, num_heads * head_dim, bias=False)
        self.u = nn.Parameter(torch.zeros(num_heads, head_dim))
        self.v = nn.Parameter(torch.zeros(num_heads, head_dim))

    def forward(self, q: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, E) queries -> queries for the keys, and (B, H, T, T) to add to their scores."""
        rows, heads, frames, width = q.shape
        key_HET = self.proj(table).view(-1, heads, width).permute(1, 2, 0)
        scores = (q + self.v[:, None].to(q.dtype)) @ key_HET * width**-0.5
        # row t starts at distance T - 1 and must start at distance t: with one more column, every row starts one later than the row before
        scores = F.pad(scores, (1, 0)).reshape(rows, heads, 2 * frames, frames)[:, :, 1:]
        scores = scores.reshape(rows, heads, frames, 2 * frames - 1)[..., :frames]
        return q + self.u[:, None].to(q.dtype), scores


class Rotary(nn.Module):
    """Rotates every slice of head width by position: (B, T, D) -> (B, T, D). As in fairseq and transformers this is before the projections,
    so the slices are those of the encoder's width, whatever heads were pruned."""

    def __init__(self, config: DistanceConfig, head_dim: int) -> None:
        super().__init__()
        self.base, self.head_dim = config.base, head_dim

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """at: (T,) float32 frame numbers; default 0, 1, 2, ..."""
        half = self.head_dim // 2
        rate = self.base ** (torch.arange(half, device=x.device) / -half)
        at = torch.arange(x.shape[1], device=x.device, dtype=torch.float32) if at is None else at
        angle = at[:, None] * rate
        cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
        a, b = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(2)


class HeadRotary(nn.Module):
    """(B, H, T, E) queries or keys -> the same with the first `width` channels of each head rotated by position, in neighbouring pairs
    (RoFormer, arXiv 2104.09864, equation 34); the others stay as they are."""

    def __init__(self, config: DistanceConfig) -> None:
        super().__init__()
        self.base, self.width = config.base, config.width

    def forward(self, x: Tensor) -> Tensor:
        rate = self.base ** (torch.arange(0, self.width, 2, device=x.device, dtype=torch.float32) / -self.width)
        angle = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)[:, None] * rate
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., : self.width].unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        return torch.cat([turned, x[..., self.width :]], dim=-1)
