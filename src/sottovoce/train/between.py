"""What goes from one layer of the student to the next in training, where that is not simply its output (`Encoder.forward`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sottovoce.encoder.encoder import Between


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scaled(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by `factor`."""
    output: Tensor = _Scale.apply(x, factor)
    return output


def scaled_gradients(depth: int) -> Between:
    """Gradients at the output of layer i of L are multiplied by m = (L + 1 - i) / (L + 2 - i), those of losses on it by 1 - m before.

    So they do not add up over the losses of all layers. As in the code of ARMHuBERT (Jang et al. 2023, arXiv 2305.11685), which counts
    layers from 0. depth: L.
    """

    def between(i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        if not i:
            return x, x
        share = (depth + 1 - i) / (depth + 2 - i)
        x = scaled(x, share)
        return scaled(x, 1 - share), x

    return between


def fed(inputs: Mapping[int, Tensor]) -> Between:
    """The next layer reads ``inputs[i]``, (B, T, D), in place of the output of layer i, if it is given."""
    return lambda i, x: (x, inputs[i].to(x.dtype) if i in inputs else x)
