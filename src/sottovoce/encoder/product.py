"""Matrix products on a CPU in float32, by oneDNN: twice as fast as what PyTorch calls by default (MKL) where the processor is not Intel's.

N inputs, M outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula


def has_onednn() -> bool:
    """Whether this build of PyTorch offers oneDNN's products (what torch.compile uses on a CPU)."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS = has_onednn()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, act: str = "none") -> Tensor:
    """act(x weight^T + bias): (..., N), (M, N), (M,) -> (..., M), without gradients. weight: plain, or in oneDNN's layout."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, act, [], "none")
    return made


# a student's own copy of this file may have been imported before
if HAS and torch.ops.mkldnn._linear_pointwise not in flop_registry:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None, **options: Any) -> int:
        """So that torch's counter counts these products, too. x, weight: shapes."""
        return 2 * math.prod(x) * weight[0]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            product(gradient, weight.t()) if of_x else None,
            product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """`nn.Linear`, computed by oneDNN where that is of use: float32 on a CPU, outside autocast, compilation and export."""

    def forward(self, x: Tensor) -> Tensor:
        if (
            HAS
            and _concrete(x)
            and _concrete(self.weight)
            and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        ):
            return _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return F.linear(x, self.weight, self.bias)


def _concrete(x: Tensor) -> bool:
    """Numbers on the CPU in float32: not a subclass that stands for something else (memory is estimated without numbers)."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
