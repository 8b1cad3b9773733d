"""Where a frame stands: convolutional positions and tables of positions (added once) and WavLM's relative table (a bias on attention)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.config import PositionConfig, RelativeConfig
from sottovoce.encoder.context import convolved_in_chunks
from sottovoce.encoder.modules import activation


class ConvPosition(nn.Module):
    """Grouped convolutions over time whose output is added to their input: (B, T, D) -> (B, T, D).

    With ``kept``, only those channel groups are computed and each is multiplied by its `scale`. Weight norm is folded at load.
    """

    channels: Tensor

    def __init__(self, config: PositionConfig, dim: int, act: str) -> None:
        super().__init__()
        self.config, self.width = config, dim // config.groups
        groups = config.groups if config.kept is None else len(config.kept)
        size = groups * self.width
        self.convs = nn.ModuleList(
            nn.Conv1d(size, size, config.kernel, padding=config.kernel // 2, groups=groups)
            for _ in range(config.depth if size else 0)
        )
        self.scale = None if config.kept is None else nn.Parameter(torch.ones(groups))
        if config.kept is not None:  # a buffer, because pruning selects from it as from the weights
            index = torch.tensor(config.kept, dtype=torch.long)[:, None] * self.width + torch.arange(self.width)
            self.register_buffer("channels", index.flatten(), persistent=False)
        self.act = activation(act)

    def forward(self, x: Tensor, inside: Tensor | None = None, chunk: int = 0) -> Tensor:
        """`inside` (B, T) bool: the valid frames, for a row of convolutions, each of which must see zeros where padding is. `chunk`: frames
        behind whose end nothing is seen; 0: everything is."""
        if self.scale is not None and self.scale.shape[0] == 0:
            return x
        y = (x if self.scale is None else x[..., self.channels]).transpose(1, 2)
        for i, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv1d)
            if i and inside is not None:
                y = y * inside[:, None].to(y.dtype)
            y = self.in_chunks(conv, y, chunk) if chunk else self.convolved(conv, y)
            if self.config.norm:
                y = F.layer_norm(y.transpose(1, 2), (y.shape[1],)).transpose(1, 2)
            y = self.act(y)
        y = y.transpose(1, 2)
        if self.scale is None:
            return x + y
        return x.index_add(2, self.channels, (y * self.scale.repeat_interleave(self.width)).to(x.dtype))

    def in_chunks(self, conv: nn.Conv1d, x: Tensor, chunk: int) -> Tensor:
        """`convolved`, where frames after a frame's chunk count as zeros."""
        before = self.config.kernel // 2
        after, groups = self.config.kernel - 1 - before, conv.weight.shape[0] // self.width
        return convolved_in_chunks(x, conv.weight, conv.bias, before, after, groups, chunk)

    def convolved(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        # groups from the weights, not from the module: see modules.py
        y = F.conv1d(x, conv.weight, conv.bias, padding=self.config.kernel // 2, groups=conv.weight.shape[0] // self.width)
        return y[..., : x.shape[-1]]  # an even kernel gives one frame more


class RelativeTable(nn.Module):
    """T5-style buckets of the signed distance -> (heads, T, T) bias, for `heads` columns of the table."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.buckets, config.heads))

    def forward(self, frames: int) -> Tensor:
        at = torch.arange(frames, device=self.weight.device)
        return self.of(at[None, :] - at[:, None])

    def of(self, distance: Tensor) -> Tensor:
        """(queries, keys) frames from each query to each key -> (heads, queries, keys)."""
        half = self.config.buckets // 2
        exact = half // 2
        near = distance.abs()
        far = torch.log(near.float().clamp(min=1) / exact) / math.log(self.config.max_distance / exact) * (half - exact)
        far = (exact + far).long().clamp(max=half - 1)
        bucket = (distance > 0).long() * half + torch.where(near < exact, near, far)
        return self.weight[bucket].permute(2, 0, 1)


def sinusoid_table(rows: int, dim: int) -> Tensor:
    """(rows, dim) sines and then cosines, of wavelengths from 2 pi to 20,000 pi frames (Vaswani et al., arXiv 1706.03762)."""
    rate, phase = sinusoid_rates(dim)
    # in double precision, because angles are large
    return (torch.arange(rows, dtype=torch.float64)[:, None] * rate + phase).sin().float()


def sinusoid_rates(dim: int) -> tuple[Tensor, Tensor]:
    """(dim,) float64 each, in radians: how far the sine of a column of `sinusoid_table` goes on in each row, and where it starts."""
    half = dim // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000.0) / max(1, half - 1)))
    phase = torch.zeros(dim, dtype=torch.float64)
    phase[half : 2 * half] = math.pi / 2
    return F.pad(rate.repeat(2), (0, dim - 2 * half)), phase


def sinusoid_columns(table: Tensor, width: int) -> Tensor:
    """For each column of a table (R, D), which column of `sinusoid_table(R, width)` it is: (D,).

    Of a student that lost dimensions, the columns of the others are left. ValueError if a column is none of them: then it is not known
    how the table goes on.
    """
    rows = torch.arange(len(table), device=table.device)
    some = torch.cat([rows[:64], rows[64:][-64:]])  # neighbouring columns differ most at the end
    known, given = sinusoid_table(len(table), width).to(table.device)[some].double(), table[some].double()
    if table.shape[1] == width:
        column, error = torch.arange(width, device=table.device), (given - known).abs().amax()
    else:
        far = (given.square().sum(0)[:, None] + known.square().sum(0) - 2 * given.t() @ known).clamp(min=0)
        column = far.argmin(1)
        error = (given - known[:, column]).abs().amax()
    if float(error) > 1e-2:  # above what rounding to bfloat16 does
        raise ValueError(
            "the table of positions holds no sinusoids, so it is not known how it goes on behind its end; cut the recording into pieces"
        )
    return column


def continued(table: Tensor, width: int, frames: int) -> Tensor:
    """A table (R, D) of columns of sinusoids of this `width`, with the rows behind its end: (frames, D). ValueError as above."""
    column = sinusoid_columns(table, width)
    rate, phase = (x.to(table.device)[column] for x in sinusoid_rates(width))
    at = torch.arange(len(table), frames, dtype=torch.float64, device=table.device)
    return torch.cat([table, (at[:, None] * rate + phase).sin().to(table.dtype)])
