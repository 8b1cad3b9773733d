"""How alike two sets of features of the same frames are."""

from __future__ import annotations

from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, eq. 3 and 5): ``|Y'X|^2 / (|X'X| |Y'Y|)``, Frobenius, centred features.

    x: (N, D), y: (N, D') of the same frames. 1 if they are equal up to rotation and scale, 0 if either does not vary. For
    unrelated features it is near (dimensions in use) / N, so N should be many times the width.
    """
    a, b = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()).clamp(min=1e-30))
