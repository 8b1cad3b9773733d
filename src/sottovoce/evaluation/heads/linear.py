"""Linear heads on the mean over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def inside(frames: int, lengths: Tensor) -> Tensor:
    """(B, frames) bool: true for valid frames."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def pooled(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D), (B,) lengths -> (B, D): the mean over the valid frames of each row."""
    valid = inside(x.shape[1], lengths)[..., None].to(x.dtype)
    return (x * valid).sum(1) / lengths[:, None]


class MeanPool(nn.Module):
    """Linear projection, mean over time, one linear layer per question (SUPERB's UtteranceLevel with mean pooling).

    It is linear, so the mean of the features over time gives the same output as all frames.
    """

    def __init__(self, dim: int, projector: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, projector)
        self.outputs = nn.ModuleList(nn.Linear(projector, size) for size in sizes)

    def forward(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        projected = self.projector(pooled(x, lengths))
        return [output(projected) for output in self.outputs]


class Scaled(nn.Module):
    """A form of `MeanPool` for the solver: it computes the same functions, and the loss is convex in its weights.

    A projection to at least as many dimensions as there are outputs does not restrict the functions and is left out. Each dimension is
    scaled first; the weights can undo this, and one step size then suits all dimensions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, like: MeanPool) -> None:
        super().__init__()
        dim, rank = like.projector.in_features, like.projector.out_features
        self.sizes = [int(output.out_features) for output in like.outputs]  # type: ignore[arg-type]
        narrow = rank < min(dim, sum(self.sizes))
        self.projector = nn.Linear(dim, rank) if narrow else nn.Identity()
        self.output = nn.Linear(rank if narrow else dim, sum(self.sizes))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        if not narrow:  # a product of two matrices would not leave zero
            nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def scale_by(self, x: Tensor) -> None:
        """Sets mean and deviation from x, (N, D)."""
        self.mean.copy_(x.mean(0))
        deviation = x.std(0, correction=0)
        self.std.copy_(torch.maximum(deviation, deviation.mean() / 2) + 1e-8)  # does not amplify dimensions that hardly vary

    def weights(self) -> list[Tensor]:
        """The weights that L2 penalises: all but the biases."""
        return [parameter for name, parameter in self.named_parameters() if name.endswith("weight")]

    def forward(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        scaled = (pooled(x, lengths) - self.mean) / self.std
        return list(self.output(self.projector(scaled)).split(self.sizes, dim=-1))
