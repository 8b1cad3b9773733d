"""Least squares for the weights that read what a cut removes: one solver for heads, units, channels and singular directions.

A layer y = W x + b loses some entries of x. Of those that stay, x_K, the best linear guess of y is W' x_K + b', where
W' = W C_xK C_KK^-1 and b' = b + W E[x] - W' E[x_K], with C the covariance of x. Without a bias, C is E[x x^T] and there is no b'. For the
principal directions of a layer's outputs this is LiteASR's rule (arXiv 2502.20583): W' = W, and the bias takes up the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sottovoce.encoder import Encoder
from sottovoce.pruning.apply import Kept, cut_like
from sottovoce.pruning.moments import Moments
from sottovoce.pruning.plan import PruningPlan

RIDGE = 1e-4  # added to the diagonal, as a share of its mean: fewer frames than columns leave the matrix singular


def readers(plan: PruningPlan, kept: Kept | None = None) -> list[str]:
    """The modules whose weights read units of `plan`, in its order; only of groups that lose some, if `kept` says which stay."""
    names: dict[str, None] = {}
    for group in plan:
        if kept is None or len(kept[group.name]) < group.size:
            names |= {part.name.rpartition(".")[0]: None for part in group.slices if part.scale and part.dim == 1}
    return list(names)


def least_squares(inner: Tensor, cross: Tensor, ridge: float = RIDGE) -> Tensor:
    """(N, M) X with the smallest squared error of x X against y. inner: (N, N), of x^T x; cross: (N, M), of x^T y. Changes `inner`.

    ridge: added to the diagonal, as a share of its mean.
    """
    if len(inner):
        inner.diagonal().add_(ridge * inner.diagonal().mean() + 1e-12)
    return torch.linalg.solve(inner, cross)


@torch.no_grad()
def repaired(
    encoder: Encoder, plan: PruningPlan, kept: Kept, moments: Mapping[str, Moments], ridge: float = RIDGE
) -> dict[str, Tensor]:
    """The weights and biases that change so that the cut to `kept`, made afterwards, loses as little as it can.

    moments: of what `readers(plan, kept)` read in the encoder before the cut, with products.
    """
    state = encoder.state_dict()
    changed: dict[str, Tensor] = {}
    for module in readers(plan, kept):
        weight, bias = state[f"{module}.weight"], state.get(f"{module}.bias")
        shape = weight.shape[1:]
        index = torch.arange(shape.numel(), device=weight.device).view(1, *shape).expand_as(weight)
        left = cut_like({f"{module}.weight": index}, plan, kept)[f"{module}.weight"]
        if not len(left):  # nothing reads any more
            continue
        columns = left[0].flatten()
        flat, of = weight.flatten(1).double(), moments[module]
        second, mean = of.second(centred=bias is not None).to(weight.device), of.mean.double().to(weight.device)
        solved = least_squares(second[columns][:, columns], second[columns] @ flat.t(), ridge).t()
        full = flat.clone()
        full[:, columns] = solved
        changed[f"{module}.weight"] = full.view_as(weight).to(weight.dtype)
        if bias is not None:
            changed[f"{module}.bias"] = (bias.double() + flat @ mean - solved @ mean[columns]).to(bias.dtype)
    return changed
