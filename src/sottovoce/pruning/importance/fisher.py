"""Importance by the squared derivative of the loss."""

from __future__ import annotations

from torch import Tensor

from sottovoce.core.registry import IMPORTANCES
from sottovoce.pruning.importance.taylor import Taylor


@IMPORTANCES.register("fisher")
class Fisher(Taylor):
    """The mean squared derivative of the loss by a unit's gate, the diagonal of the Fisher information (Kwon et al., arXiv 2204.09656)."""

    def part(self, derivative: Tensor) -> Tensor:
        return derivative.square()
