"""Dimensions of the residual stream: which tensors shrink together where an encoder loses some."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from sottovoce.encoder import EncoderConfig, shapes


class Dims:
    """An encoder of `old`, and the same with `dim` dimensions.

    Every channel group of the positional convolution keeps the same places, so that its structure stays. A dimension is therefore chosen by
    its place in a group; without positional convolutions, the whole width is one group. config: the new one. groups: their number.
    axes: by name of a tensor, its axes that shrink.
    """

    def __init__(self, old: EncoderConfig, dim: int) -> None:
        self.old, self.config = old, dataclasses.replace(old, dim=dim)
        self.groups = 1 if old.position is None else old.position.groups
        before, after = shapes(old), shapes(self.config)
        changed = {name: [i for i, (x, y) in enumerate(zip(before[name], after[name], strict=True)) if x != y] for name in before}
        self.axes = {name: axes for name, axes in changed.items() if axes}

    def kept(self, places: Tensor) -> Tensor:
        """(dim,) the dimensions at these places of every group."""
        groups = torch.arange(self.groups, device=places.device)
        return (groups[:, None] * (self.old.dim // self.groups) + places).flatten()

    def select(self, tensors: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
        """The tensors that shrink, with the dimensions at `places` only; of other units they may have lost some already. Differentiable.

        places: (dim / groups,) ascending.
        """
        kept, smaller = self.kept(places), {}
        for name, axes in self.axes.items():
            if name in tensors:
                tensor = tensors[name]
                for axis in axes:  # of a grouped convolution, one axis has the width of a group
                    tensor = tensor.index_select(axis, kept if tensor.shape[axis] == self.old.dim else places)
                smaller[name] = tensor
        return smaller
