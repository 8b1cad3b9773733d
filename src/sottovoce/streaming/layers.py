"""An encoder's layers with limited context in time.

Only attention and convolutions mix frames, so only these two are replaced; the rest is the encoder's own code. A `Context` defines which
frames each of them sees. B batch, T computed frames, K visible frames, C channels, D width, H heads, E head width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder import Encoder
from sottovoce.encoder.attention import Attention, AttentionMap, shares
from sottovoce.encoder.conformer import Convolution
from sottovoce.encoder.distance import SinusoidDistance, sinusoids
from sottovoce.encoder.modules import Offset, constant
from sottovoce.encoder.position import ConvPosition
from sottovoce.hub.teacher_space import TeacherSpace


class Context(ABC):
    """Which frames the current T frames see.

    at: (T,) frame numbers. mask: (T, K) bool, true where a frame sees a key; ``None``: every frame sees every key.
    table, place: position terms that all layers share. Relative table: `table` is (heads, T, K). Key vectors: `table` is (T, K)
    indices. Sinusoids: `table` is (N, D), and `place` (T, K) indexes it.
    """

    at: Tensor
    mask: Tensor | None = None
    table: Tensor | None = None
    place: Tensor | None = None

    @abstractmethod
    def keys(self, name: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the current frames (B, H, T, E) -> those that they see (B, H, K, E). name: the attention module's."""

    @abstractmethod
    def convolve(self, name: str, x: Tensor, conv: nn.Conv1d, before: int, after: int, groups: int) -> Tensor:
        """(B, C, T) -> (B, C, T): `conv` over `before` past and `after` future frames; unseen frames count as zeros."""

    def place_at(self, encoder: Encoder, queries: Tensor, keys: Tensor) -> None:
        """Sets `table` and `place` for query frames (T,) and key frames (K,), given as frame numbers."""
        distance, kind = keys[None, :] - queries[:, None], encoder.config.distance
        if encoder.relative is not None:
            self.table = encoder.relative.of(distance)
        elif kind is not None and kind.kind == "key":
            self.table = distance.clamp(-kind.left, kind.right) + kind.left
        elif kind is not None and kind.kind == "sinusoid":
            first, last = int(distance.min()), int(distance.max())
            back = -torch.arange(first, last + 1, device=distance.device, dtype=torch.float32)  # keys to the left are positive
            self.table, self.place = sinusoids(back, encoder.config.dim), distance - first


class ContextAttention(nn.Module):
    """An encoder's `Attention`, limited to the frames that `context` allows; (B, T, D) -> (B, T, D)."""

    def __init__(self, attention: Attention, context: Context, name: str) -> None:
        super().__init__()
        self.attention, self.context, self.name = attention, context, name
        self.projected: tuple[Tensor, Tensor] | None = None

    def forward(
        self, x: Tensor, valid: Tensor | None = None, table: Tensor | None = None, below: AttentionMap | None = None
    ) -> Tensor:
        of, context = self.attention, self.context
        if isinstance(of.out_proj, Offset) or of.v_proj.weight.shape[0] == 0:
            return constant(of.out_proj, x)
        if of.reuse:
            assert below is not None
            v = of.v_proj(x).unflatten(-1, (-1, of.value_width)).transpose(1, 2)
            return of.outputs(below.shares, context.keys(self.name, v, v)[1])
        turned = x if of.rotary is None else of.rotary(x, context.at.float())
        q, k, v = (
            proj(y).unflatten(-1, (-1, width)).transpose(1, 2)
            for proj, y, width in (
                (of.q_proj, turned, of.query_width),
                (of.k_proj, turned, of.query_width),
                (of.v_proj, x, of.value_width),
            )
        )
        k, v = context.keys(self.name, k, v)
        bias = None
        if of.gate is not None and context.table is not None:
            bias = of.gate(x, context.table)
        elif isinstance(of.distance, SinusoidDistance):
            q, bias = self.sinusoid(of.distance, q)
        elif of.distance is not None and context.table is not None:
            q, bias = of.distance(q, context.table)
        mask = context.mask
        if bias is not None:
            mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        if below is not None:
            below.shares = shares(q, k, mask, of.scale)
            return of.outputs(below.shares, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=of.scale)
        projected: Tensor = of.out_proj(y.transpose(1, 2).flatten(2))
        return projected

    def sinusoid(self, part: SinusoidDistance, q: Tensor) -> tuple[Tensor, Tensor]:
        """`SinusoidDistance` for any set of frames: scores every distance once, then picks each pair's score."""
        table, place = self.context.table, self.context.place
        assert table is not None
        assert place is not None
        if self.projected is None or self.projected[0] is not table:
            self.projected = (table, part.proj(table).unflatten(-1, (-1, q.shape[-1])).permute(1, 2, 0))
        scores = (q + part.v[:, None]) @ self.projected[1] * q.shape[-1] ** -0.5
        return q + part.u[:, None], scores.gather(-1, place.expand(*q.shape[:2], -1, -1))


class ContextConvolution(nn.Module):
    """A Conformer's `Convolution`, limited to the frames that `context` allows; (B, T, D) -> (B, T, D)."""

    def __init__(self, convolution: Convolution, context: Context, name: str) -> None:
        super().__init__()
        self.convolution, self.context, self.name = convolution, context, name

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        of = self.convolution
        if of.depthwise.weight.shape[0] == 0:
            return x.new_zeros(x.shape)
        value, gate = of.in_proj(x).unflatten(-1, (-1, 2)).unbind(-1)
        y = (value * gate.sigmoid()).transpose(1, 2)
        y = self.context.convolve(self.name, y, of.depthwise, of.before, of.after, y.shape[1]).transpose(1, 2)
        projected: Tensor = of.out_proj(of.act(of.norm(y)))
        return projected


def add_positions(of: ConvPosition, x: Tensor, context: Context) -> Tensor:
    """`ConvPosition` with limited context: (B, T, D) -> (B, T, D)."""
    if of.scale is not None and of.scale.shape[0] == 0:
        return x
    before = of.config.kernel // 2
    y = x if of.scale is None else x[..., of.channels]
    for i, conv in enumerate(of.convs):
        assert isinstance(conv, nn.Conv1d)
        after, groups = of.config.kernel - 1 - before, conv.weight.shape[0] // of.width
        y = context.convolve(f"position.{i}", y.transpose(1, 2), conv, before, after, groups).transpose(1, 2)
        if of.config.norm:
            y = F.layer_norm(y, y.shape[-1:])
        y = of.act(y)
    if of.scale is None:
        return x + y
    return x.index_add(2, of.channels, y * of.scale.repeat_interleave(of.width))


class ContextLayers:
    """The encoder after its front end, with limited context. Shares the encoder's weights; the encoder itself is unchanged."""

    def __init__(self, encoder: Encoder, context: Context) -> None:
        self.encoder, self.context = encoder, context
        self.layers = [self._rewired(layer, f"layer.{i}") for i, layer in enumerate(encoder.layers)]

    def _rewired(self, layer: nn.Module, name: str) -> nn.Module:
        layer = copy.copy(layer)
        layer._modules = dict(layer._modules)
        for part, module in layer._modules.items():
            if isinstance(module, Attention):
                layer._modules[part] = ContextAttention(module, self.context, f"{name}.{part}")
            elif isinstance(module, Convolution):
                layer._modules[part] = ContextConvolution(module, self.context, f"{name}.{part}")
        return layer

    def __call__(self, x: Tensor) -> Features:
        """Front-end frames (B, T, D) -> `Features`."""
        encoder, hidden = self.encoder, [x]
        if encoder.position is not None:
            x = add_positions(encoder.position, x, self.context)
        embedded = x = x if encoder.config.norm_first else encoder.norm(x)
        below = AttentionMap() if encoder.sharing else None
        for i, layer in enumerate(self.layers):
            x, _ = layer(x, None, None, below if i in encoder.sharing else None)
            hidden.append(x)
        return Features(hidden, None, embedded, encoder.norm(x) if encoder.config.norm_first else x)


@dataclass(frozen=True)
class StreamFeatures(Features):
    """Features of consecutive frames of a stream.

    first: number of the first frame. stride: samples between frames. kernel: samples that a front-end frame covers.
    """

    first: int = 0
    stride: int = 320
    kernel: int = 400

    def through(self, projections: TeacherSpace) -> StreamFeatures:
        """The same frames in the teacher's space."""
        hidden, join = projections(self.hidden), projections.join
        step = self.stride // join
        kernel = self.kernel - (join - 1) * step
        return StreamFeatures(hidden, None, self.embedded, hidden[-1], first=self.first * join, stride=step, kernel=kernel)

    @property
    def times(self) -> Tensor:
        """(T,) float64: the centre of each frame, in seconds from the start of the stream."""
        at = torch.arange(self.first, self.first + self.last.shape[1], dtype=torch.float64)
        return (at * self.stride + self.kernel / 2) / SAMPLE_RATE
