"""Building blocks that take their width from their weights.

No module stores its width in a Python attribute. So a forward pass with smaller weights (torch.func.functional_call) is the forward pass of
the smaller model. Pruning relies on this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation '{name}' is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class LayerNorm(nn.Module):
    """Layer norm over the last axis, with as many channels as it has weights."""

    bias: nn.Parameter | None

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_parameter("bias", nn.Parameter(torch.zeros(dim)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class ChannelNorm(nn.Module):
    """Group norm with one group per channel: normalises (B, C, T) over time, over valid steps only if `valid` (B, 1, T) is given."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            return F.group_norm(x, self.weight.shape[0], self.weight, self.bias, self.eps)
        kind, x, share = x.dtype, x.float(), valid / valid.sum(-1, keepdim=True).clamp(min=1)
        mean = (x * share).sum(-1, keepdim=True)
        variance = ((x - mean).square() * share).sum(-1, keepdim=True)
        return ((x - mean) * (self.weight[:, None] * torch.rsqrt(variance + self.eps)) + self.bias[:, None]).to(kind)


class WholeNorm(nn.Module):
    """Group norm with one group of all channels: (B, C, T) normalised over channels and time, over valid steps only when `valid`
    (B, 1, T) is given."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            return F.group_norm(x, 1, self.weight, self.bias, self.eps)
        kind, x = x.dtype, x.float()
        share = valid / (valid.sum(-1, keepdim=True) * x.shape[1]).clamp(min=1)
        mean = (x * share).sum((1, 2), keepdim=True)
        variance = ((x - mean).square() * share).sum((1, 2), keepdim=True)
        return ((x - mean) * torch.rsqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]).to(kind)


class FixedNorm(nn.Module):
    """Batch norm over the last axis with fixed statistics, in training, too: those of the loaded model. Only weight and bias are trained.

    With batch statistics, padding and other rows would change a frame, and gated units differ between steps. Weight and bias can follow
    what distillation and pruning shift. Models with random weights should use a layer norm instead.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * (self.weight * torch.rsqrt(self.variance + self.eps)) + self.bias


class Offset(nn.Module):
    """What is left of a projection that lost all its inputs: its bias, if it had one."""

    bias: nn.Parameter | None

    def __init__(self, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.register_parameter("bias", nn.Parameter(torch.zeros(dim)) if bias else None)


def constant(projection: nn.Module, x: Tensor) -> Tensor:
    """What a projection without inputs adds to `x`: (..., D) -> (..., D), its bias everywhere, or zeros."""
    bias = getattr(projection, "bias", None)
    return x.new_zeros(x.shape) if bias is None else bias.expand_as(x)
