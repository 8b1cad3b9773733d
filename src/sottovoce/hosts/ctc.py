"""Recognisers by CTC (Graves et al., ICML 2006)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sottovoce.core.registry import HOSTS
from sottovoce.core.types import Batch, Features
from sottovoce.hosts.heads import HeadHost


@HOSTS.register("ctc")
class CTCHost(HeadHost):
    """A recogniser: characters or phones for every frame, with CTC's blank between them."""

    suffix = "ForCTC"
    auto_class = "AutoModelForCTC"
    answers = "frames"
    text = True

    @torch.no_grad()
    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        out = self.outputs(features, batch)
        return out.logits.argmax(-1).masked_fill(~out.valid, self.rest.config.pad_token_id)

    def texts(self, tokens: Tensor) -> list[str]:
        return [str(text) for text in self.tokenizer.batch_decode(tokens)]  # which joins frames
