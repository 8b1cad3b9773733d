"""Linear layers and convolutions in float32 on a CPU.

Each is computed by oneDNN or by PyTorch's own library (mostly MKL), whichever is faster on this machine (`sottovoce.encoder.kernels`). For
oneDNN, convolutions over time are written as matrix products.

N inputs, M outputs, B batch, T steps in, K kernel, F steps out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

from sottovoce.encoder.kernels import ROUNDS, Candidates, choose


def has_onednn() -> bool:
    """Whether this build of PyTorch offers oneDNN's products (what torch.compile uses on a CPU)."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS = has_onednn()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, act: str = "none") -> Tensor:
    """act(x weight^T + bias): (..., N), (M, N), (M,) -> (..., M), without gradients. weight: plain, or in oneDNN's layout."""
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, act, [], "none")
    return outputs


# a copy of this file in a student's folder may have registered the formula already
if HAS and torch.ops.mkldnn._linear_pointwise not in flop_registry:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None, **options: Any) -> int:
        """Lets torch's FLOP counter count these products. x, weight: shapes."""
        return 2 * math.prod(x) * weight[0]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            gradient_of_input(gradient, weight) if of_x else None,
            gradient_of_weight(rows, inputs) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: (..., N), (M, N), (M,) -> (..., M), without gradients."""
    if onednn_is_faster("linear", x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]):
        return product(x, weight, bias)
    return F.linear(x, weight, bias)


def gradient_of_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """(..., M), (M, N) -> (..., N)"""
    if onednn_is_faster("gradient of input", gradient.numel() // gradient.shape[-1], weight.shape[1], weight.shape[0]):
        return product(gradient, weight.t())
    return gradient @ weight


def gradient_of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """(B, M), (B, N) -> (M, N)"""
    if onednn_is_faster("gradient of weight", len(x), x.shape[1], gradient.shape[1]):
        return product(gradient.t(), x.t())
    return gradient.t() @ x


class _Convolution(torch.autograd.Function):
    """(B, N, T), (M, N, K) and (M,) -> (B, M, F): every output step is a product with a window of K input steps, contiguous in memory.

    The result's memory layout is (B, F, M), as the next convolution needs it; the gradient has the layout of the input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        rows, flat = x.transpose(1, 2).contiguous(), weight.transpose(1, 2).flatten(1)
        ctx.save_for_backward(rows, weight)
        ctx.stride, ctx.turned = stride, not x.is_contiguous()
        windows = _windows(rows, weight, stride)
        outputs = x.new_empty(*windows.shape[:2], len(weight))
        for row, out in zip(windows, outputs, strict=True):
            out.copy_(product(row, flat, bias))
        return outputs.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        stride, (_, inputs, kernel) = ctx.stride, weight.shape
        gradient = gradient.transpose(1, 2).contiguous()
        flat = weight.transpose(1, 2).flatten(1)
        of_rows, of_flat = torch.zeros_like(rows), torch.zeros_like(flat)
        for first in range(0, kernel, stride):  # with `stride` taps at a time, no two output steps read the same input step
            taps = slice(first * inputs, min(first + stride, kernel) * inputs)
            windows, back = _windows(rows, weight, stride, taps), flat[:, taps].t().contiguous()
            for row, of_out, of_row in zip(windows, gradient, _windows(of_rows, weight, stride, taps), strict=True):
                if ctx.needs_input_grad[0]:
                    of_row += product(of_out, back)
                if ctx.needs_input_grad[1]:
                    of_flat[:, taps] += product(of_out.t(), row.contiguous().t())  # oneDNN is slow if rows have gaps
        of_x, of_bias = of_rows.transpose(1, 2), gradient.sum((0, 1)) if ctx.needs_input_grad[2] else None
        of_weight = of_flat.view(len(weight), kernel, inputs).transpose(1, 2)
        return of_x if ctx.turned else of_x.contiguous(), of_weight, of_bias, None


def _windows(x: Tensor, weight: Tensor, stride: int, columns: slice = slice(None)) -> Tensor:
    """The input window of every output step: (B, T, N) -> (B, F, K N), or `columns` of it, a view."""
    rows, steps, inputs = x.shape
    kernel = weight.shape[2]
    begin, end, _ = columns.indices(kernel * inputs)
    shape = rows, (steps - kernel) // stride + 1, end - begin
    return x.as_strided(shape, (steps * inputs, stride * inputs, 1), x.storage_offset() + begin)


def call(function: Any, *inputs: Any) -> Tensor:
    """Applies an autograd function. `Any`, because ``apply`` is typed in some releases of PyTorch only."""
    result: Tensor = function.apply(*inputs)
    return result


class Linear(nn.Linear):
    """`nn.Linear`, computed by oneDNN where it is faster: float32 on a CPU, outside autocast, compilation and export."""

    def forward(self, x: Tensor) -> Tensor:
        if not _serves(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return (
            call(_Linear, x, self.weight, self.bias) if _trains(x, self.weight, self.bias) else linear(x, self.weight, self.bias)
        )


class FactoredLinear(nn.Module):
    """A linear layer of rank R, as two factors: (..., N) -> (..., R) -> (..., M). N, M and bias are those of `like`."""

    def __init__(self, like: nn.Linear, rank: int) -> None:
        super().__init__()
        self.inner = Linear(like.in_features, rank, bias=False)
        self.outer = Linear(rank, like.out_features, bias=like.bias is not None)

    @property
    def weight(self) -> Tensor:
        """(M, R): one row per output, as in a plain layer."""
        return self.outer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.outer.bias

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.outer(self.inner(x))
        return outputs


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` without padding, groups or dilation: (B, N, T) -> (B, M, F). Uses oneDNN's products if they are faster.

    The result then has channels last in memory, so a sequence of such convolutions copies nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        outputs, inputs, kernel = self.weight.shape
        if _serves(x, self.weight) and x.shape[2] >= kernel:
            operation = "trained convolution" if _trains(x, self.weight, self.bias) else "convolution"
            frames = x.shape[0] * ((x.shape[2] - kernel) // self.stride[0] + 1)
            if onednn_is_faster(operation, frames, inputs, outputs, kernel, self.stride[0]):
                return call(_Convolution, x, self.weight, self.bias, self.stride[0])
        return F.conv1d(x, self.weight, self.bias, self.stride)


def _trains(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this product: float32 on a CPU, outside autocast, compilation and export."""
    other = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return HAS and _concrete(x) and _concrete(weight) and not other


def _concrete(x: Tensor) -> bool:
    """Whether `x` is a plain float32 tensor on the CPU, not a subclass such as the fake tensors that memory is estimated with."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


# The choice of the faster library ----------------------------------------------------------------------------------------------

FEW, MANY = 128, 512  # rows; calls are timed on 64 below the first, on 1024 from the second on, else on 256
CONVOLVED = 2000  # rows on which convolutions are timed, if not on 64
SMALLEST, LARGEST = 32, 4096  # inputs and outputs; timed at three quarters of the next power of two (768 and 3072 are such sizes)


def onednn_is_faster(operation: str, rows: int, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> bool:
    """Whether oneDNN is faster than PyTorch's own library for `operation` (a key of `TIMED`) at about these sizes."""
    sizes = _timed_rows(operation, rows), _timed_size(inputs), _timed_size(outputs), kernel, stride
    name = " ".join([operation, "x".join(map(str, sizes))])
    return choose(name, lambda: TIMED[operation](*sizes)) == "onednn"


def _timed_rows(operation: str, rows: int) -> int:
    if rows < FEW:
        return 64
    if operation.endswith("convolution"):
        return CONVOLVED
    return 1024 if rows >= MANY else 256  # oneDNN's preparation for a size weighs less, the more rows there are


def _timed_size(size: int) -> int:
    if size == 1:  # a waveform
        return 1
    return 3 * (1 << (min(max(size, SMALLEST), LARGEST) - 1).bit_length()) // 4


def _tensor(*shape: int) -> Tensor:
    """A constant tensor. Random numbers would change a run's results, depending on whether a choice is known."""
    return torch.full(shape, 0.5, dtype=torch.float32, device="cpu")


def _linears(rows: int, inputs: int, outputs: int, *_: int) -> Candidates:
    x, weight, bias = _tensor(rows + ROUNDS, inputs), _tensor(outputs, inputs), _tensor(outputs)
    return {
        "onednn": lambda more: product(x[: rows + more], weight, bias),
        "torch": lambda more: F.linear(x[: rows + more], weight, bias),
    }


def _gradients_of_input(rows: int, inputs: int, outputs: int, *_: int) -> Candidates:
    gradient, weight = _tensor(rows + ROUNDS, outputs), _tensor(outputs, inputs)
    return {
        "onednn": lambda more: product(gradient[: rows + more], weight.t()),
        "torch": lambda more: gradient[: rows + more] @ weight,
    }


def _gradients_of_weight(rows: int, inputs: int, outputs: int, *_: int) -> Candidates:
    gradient, x = _tensor(rows + ROUNDS, outputs), _tensor(rows + ROUNDS, inputs)
    return {
        "onednn": lambda more: product(gradient[: rows + more].t(), x[: rows + more].t()),
        "torch": lambda more: gradient[: rows + more].t() @ x[: rows + more],
    }


def _convolutions(frames: int, inputs: int, outputs: int, kernel: int, stride: int, trained: bool = False) -> Candidates:
    """Convolutions to time: oneDNN's with channels last, PyTorch's with time last."""
    weight = _tensor(outputs, inputs, kernel).requires_grad_(trained)
    memory = _tensor(((frames + ROUNDS) * stride + kernel) * inputs)

    def run(convolve: Callable[[Tensor], Tensor], turned: bool) -> Callable[[int], object]:
        def step(more: int) -> None:
            steps = (frames + more) * stride + kernel
            x = memory[: steps * inputs]
            x = (x.view(1, steps, inputs).transpose(1, 2) if turned else x.view(1, inputs, steps)).requires_grad_(trained)
            with torch.set_grad_enabled(trained):
                y = convolve(x)
                if trained:
                    torch.autograd.grad(y, (x, weight), torch.ones_like(y))

        return step

    return {
        "onednn": run(lambda x: call(_Convolution, x, weight, None, stride), True),
        "torch": run(lambda x: F.conv1d(x, weight, None, stride), False),
    }


TIMED: dict[str, Callable[..., Candidates]] = {
    "linear": _linears,
    "gradient of input": _gradients_of_input,
    "gradient of weight": _gradients_of_weight,
    "convolution": _convolutions,
    "trained convolution": functools.partial(_convolutions, trained=True),
}
