"""The distance between two vectors that the regression objectives share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """``l1 * mean |a - b| - cosine * cos(a, b) + mse * mean (a - b)^2`` per frame. Parts of weight 0 are not computed.

    cosine_kind: the cosine itself (DPHuBERT), or the logarithm of its sigmoid (DistilHuBERT, USAD).
    """

    l1: float = 1.0
    cosine: float = 1.0
    mse: float = 0.0
    cosine_kind: Literal["raw", "log_sigmoid"] = "raw"

    def __post_init__(self) -> None:
        if not (self.l1 or self.cosine or self.mse):
            raise ValueError("at least one of l1, cosine and mse must not be 0")

    def parts(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The unweighted parts by name, each (..., T). output, target: (..., T, D) float32."""
        parts: dict[str, Tensor] = {}
        if self.l1:
            parts["l1"] = (output - target).abs().mean(-1)
        if self.cosine:
            similarity = F.cosine_similarity(output, target, dim=-1)
            parts["cosine"] = similarity if self.cosine_kind == "raw" else F.logsigmoid(similarity)
        if self.mse:
            parts["mse"] = (output - target).square().mean(-1)
        return parts

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum of `parts`."""
        weights = {"l1": self.l1, "cosine": -self.cosine, "mse": self.mse}
        return torch.stack([weights[name] * value for name, value in parts.items()]).sum(0)
