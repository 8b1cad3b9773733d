"""Weight norm of the positional convolution, which checkpoints hold as a length and a direction, and ours as one weight (ADR 0004)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Weight norm over dim 2, one length per kernel position: weight = g v / |v|. torch has spelt the two tensors in two ways.
_SPELLINGS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


def _length(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True)


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every weight-normed convolution's pair of tensors replaced by its weight. A pair that does not fit is left as it is."""
    folded = dict(tensors)
    for length, direction in _SPELLINGS:
        for name in [name for name in tensors if name.endswith("." + length)]:
            stem = name.removesuffix(length)
            g, v = tensors[name], tensors.get(stem + direction)
            if v is None or v.dim() != 3 or tuple(g.shape) != (1, 1, v.shape[2]):
                continue
            if stem + "weight" in folded:
                raise ValueError(
                    f"{stem}weight is there twice, as it is and as length and direction; which one counts is not known"
                )
            del folded[name], folded[stem + direction]
            folded[stem + "weight"] = v.float() * (g.float() / _length(v.float()))
    return folded


def unfold_weight_norm(tensors: Mapping[str, Tensor], stem: str = "encoder.pos_conv_embed.conv.") -> dict[str, Tensor]:
    """The reverse, in the newer spelling."""
    unfolded = dict(tensors)
    weight = unfolded.pop(stem + "weight", None)
    if weight is not None:
        g = _length(weight)
        unfolded[stem + _SPELLINGS[1][0]] = g
        unfolded[stem + _SPELLINGS[1][1]] = torch.where(
            g == 0, torch.ones_like(weight), weight
        )  # any direction will do for length 0
    return unfolded
