"""What hosts with a head on the encoder share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Features, Outputs
from sottovoce.hosts.base import Host
from sottovoce.hosts.rest import head


class HeadHost(Host):
    """A head of transformers on the encoder's states. first: its linear layer that reads them."""

    first: ClassVar[str]

    @property
    def folds(self) -> bool:
        """Whether its first layer reads a bridge's states as they are."""
        return not self.sums_layers and self.rest.base_model.adapter is None

    def build_rest(self, hf: dict[str, Any]) -> nn.Module:
        return head(hf, self.suffix, self.first, self.width)

    def outputs(self, features: Features, batch: Batch, tokens: Tensor | None = None) -> Outputs:
        states = self.states(features)
        mask = states.mask()
        logits = self.rest(states, attention_mask=mask).logits
        if self.answers == "classes":
            return Outputs(logits[:, None], logits.new_ones(len(logits), 1, dtype=torch.bool))
        valid = logits.new_ones(logits.shape[:2], dtype=torch.bool)
        if states.lengths is not None:
            valid = torch.arange(logits.shape[1], device=logits.device) < self.rest.base_model.frames(states.lengths)[:, None]
        return Outputs(logits, valid)

    def count(self, samples: Any) -> Any:
        return self.rest.base_model.frames(super().count(samples))
