"""How far apart two frames are, as attention sees it. B batch, T frames, H heads, E head width, D width of the encoder.

No table of (frames, frames, head width) is ever made: distances repeat, so scores are computed per distance and then put in place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.config import DistanceConfig
from sottovoce.encoder.product import Linear


def shared_table(config: DistanceConfig, frames: int, dim: int, like: Tensor) -> Tensor | None:
    """What all layers need to know of `frames` frames, on the device of `like`: for "key", the (T, T) numbers of the distances' vectors;
    for "sinusoid", (2T - 1, D) sinusoids of the distances T - 1 (keys to the left) to 1 - T, in the type of `like`."""
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
    """A vector per clipped distance, shared by the layer's heads, scored against the query."""

    def __init__(self, config: DistanceConfig, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.left + config.right + 1, head_dim))

    def forward(self, q: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, E) queries -> the queries, and (B, H, T, T) to add to their scores."""
        scores = q @ self.weight.t() * q.shape[-1] ** -0.5
        return q, scores.gather(-1, table.expand(*q.shape[:2], -1, -1))


class SinusoidDistance(nn.Module):
    """Transformer-XL: the query plus `v`, scored against projected sinusoids of the distance; `u` is added to what the keys see."""

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
        # row t starts at distance T - 1 and is wanted from distance t on: one column more makes every row start one later
        scores = F.pad(scores, (1, 0)).reshape(rows, heads, 2 * frames, frames)[:, :, 1:]
        scores = scores.reshape(rows, heads, frames, 2 * frames - 1)[..., :frames]
        return q + self.u[:, None].to(q.dtype), scores


class Rotary(nn.Module):
    """(B, T, D) -> the same with every slice of head width rotated by position. Before the projections, as fairseq and transformers do
    it, so the slices are those of the encoder's width, however many heads the layer still has."""

    def __init__(self, config: DistanceConfig, head_dim: int) -> None:
        super().__init__()
        self.base, self.head_dim = config.base, head_dim

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """`at`: (T,) float32 numbers of the frames, when they are not 0, 1, 2, ..."""
        half = self.head_dim // 2
        rate = self.base ** (torch.arange(half, device=x.device) / -half)
        at = torch.arange(x.shape[1], device=x.device, dtype=torch.float32) if at is None else at
        angle = at[:, None] * rate
        cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
        a, b = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(2)
