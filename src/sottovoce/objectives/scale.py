"""Standardisation of a teacher's answers, estimated once before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

BATCHES = 64  # of the training data, from which mean and deviation are estimated
T = TypeVar("T")


def few(batches: Iterable[T]) -> Iterator[T]:
    """The first `BATCHES` batches."""
    return islice(iter(batches), BATCHES)


class Scale(nn.Module):
    """(..., D) -> (..., D) with zero mean and unit variance of each dimension; unchanged before `set`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    @torch.no_grad()
    def set(self, rows: Tensor) -> None:
        """Takes mean and deviation from (N, D) rows."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0, correction=0).clamp(min=1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    @torch.no_grad()
    def undone(self, linear: nn.Linear) -> nn.Linear:
        """A map whose outputs are those of `linear`, before standardisation."""
        plain = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device)
        plain.weight.copy_(linear.weight * self.deviation[:, None])
        plain.bias.copy_(linear.bias * self.deviation + self.mean)
        return plain
