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
    first = "lm_head"
    auto_class = "AutoModelForCTC"
    answers = "frames"
    text = True

    @torch.no_grad()
    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        out = self.outputs(features, batch)
        return out.logits.argmax(-1).masked_fill(~out.valid, self.rest.config.pad_token_id)

    def spelled(self, text: str, **options: Any) -> list[int]:
        """`Host.spelled`. In capital or small letters, whichever the tokenizer knows; without punctuation that it does not know."""
        unknown = self.tokenizer.unk_token_id

        def ids(form: str) -> list[int]:
            kept = [x for x in form if x.isalnum() or x.isspace() or self.tokenizer.convert_tokens_to_ids(x) != unknown]
            return list(self.tokenizer(" ".join("".join(kept).split()), add_special_tokens=False).input_ids)

        best = min((ids(form) for form in (text, text.upper(), text.lower())), key=lambda found: found.count(unknown))
        return [] if unknown in best else best

    def texts(self, tokens: Tensor) -> list[str]:
        return [str(text) for text in self.tokenizer.batch_decode(tokens)]  # which joins frames
