"""Matrix products on a CPU in float32, by oneDNN: twice as fast as what PyTorch calls by default (MKL) where the processor is not Intel's.
Where it is, linear layers keep to MKL. And convolutions over time as such products, which are faster so, gradients above all.

N inputs, M outputs, B batch, T steps in, K kernel, F steps out.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
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


def by_intel() -> bool:
    """Whether the processor is Intel's. MKL is as fast as oneDNN there, faster for the gradient of weights, and does not prepare itself
    anew for every size of batch."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        listed = ""
    return "GenuineIntel" in platform.processor() + listed


INTEL = by_intel()


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


class _Convolution(torch.autograd.Function):
    """(B, N, T), (M, N, K) and (M,) -> (B, M, F): every step out is a product with K neighbouring steps, which lie in a row.

    The result lies in memory as (B, F, M), which is what the next one reads; the gradient lies as the input did.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        rows, flat = x.transpose(1, 2).contiguous(), weight.transpose(1, 2).flatten(1)
        ctx.save_for_backward(rows, weight)
        ctx.stride, ctx.turned = stride, not x.is_contiguous()
        windows = _windows(rows, weight, stride)
        made = x.new_empty(*windows.shape[:2], len(weight))
        for row, out in zip(windows, made, strict=True):
            out.copy_(product(row, flat, bias))
        return made.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        stride, (_, inputs, kernel) = ctx.stride, weight.shape
        gradient = gradient.transpose(1, 2).contiguous()
        flat = weight.transpose(1, 2).flatten(1)
        of_rows, of_flat = torch.zeros_like(rows), torch.zeros_like(flat)
        for first in range(0, kernel, stride):  # by so many taps at a time, no two steps out read the same step in
            taps = slice(first * inputs, min(first + stride, kernel) * inputs)
            heard, back = _windows(rows, weight, stride, taps), flat[:, taps].t().contiguous()
            for row, said, out in zip(heard, gradient, _windows(of_rows, weight, stride, taps), strict=True):
                if ctx.needs_input_grad[0]:
                    out += product(said, back)
                if ctx.needs_input_grad[1]:
                    of_flat[:, taps] += product(said.t(), row.contiguous().t())  # oneDNN crawls where rows have gaps
        of_x, of_bias = of_rows.transpose(1, 2), gradient.sum((0, 1)) if ctx.needs_input_grad[2] else None
        of_weight = of_flat.view(len(weight), kernel, inputs).transpose(1, 2)
        return of_x if ctx.turned else of_x.contiguous(), of_weight, of_bias, None


def _windows(x: Tensor, weight: Tensor, stride: int, columns: slice = slice(None)) -> Tensor:
    """(B, T, N) -> (B, F, K N) or some of these columns, a view."""
    rows, steps, inputs = x.shape
    kernel = weight.shape[2]
    begin, end, _ = columns.indices(kernel * inputs)
    shape = rows, (steps - kernel) // stride + 1, end - begin
    return x.as_strided(shape, (steps * inputs, stride * inputs, 1), x.storage_offset() + begin)


def call(function: Any, *inputs: Any) -> Tensor:
    """The result of an autograd function. Its ``apply`` has types in some releases of PyTorch and none in others, hence `Any`."""
    result: Tensor = function.apply(*inputs)
    return result


class Linear(nn.Linear):
    """`nn.Linear`, computed by oneDNN where that is of use: float32 on a CPU not of Intel's, outside autocast, compilation and export."""

    def forward(self, x: Tensor) -> Tensor:
        if not INTEL and _serves(x, self.weight):
            return call(_Linear, x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` without padding, groups or dilation, computed by oneDNN's products where they are of use and it reads many channels.

    (B, N, T) -> (B, M, F), and then in memory channels lie beside each other: a row of such convolutions copies nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _serves(x, self.weight) and self.weight.shape[1] > 1 and x.shape[2] >= self.weight.shape[2]:
            return call(_Convolution, x, self.weight, self.bias, self.stride[0])
        return F.conv1d(x, self.weight, self.bias, self.stride)


def _serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to compute the product of these: float32 on a CPU, outside autocast, compilation and export."""
    asked = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return HAS and _concrete(x) and _concrete(weight) and not asked


def _concrete(x: Tensor) -> bool:
    """Numbers on the CPU in float32: not a subclass that stands for something else (memory is estimated without numbers)."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
