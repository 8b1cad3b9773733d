"""HuBERT (arXiv 2106.07447)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sottovoce.core.registry import FAMILIES
from sottovoce.families.base import Family


@FAMILIES.register("hubert")
class Hubert(Family):
    """HuBERT, from Base to X-Large."""

    model_types = ("hubert",)
    prefix = "hubert"
    architecture = "HubertModel"
    fixed: ClassVar[Mapping[str, Any]] = {}

    def refuse(self, hf: Mapping[str, Any]) -> None:
        super().refuse(hf)
        if hf.get("conv_pos_batch_norm"):
            raise ValueError(
                "this HuBERT has a batch norm before its positional convolution (conv_pos_batch_norm in config.json), which "
                "cannot be folded into it exactly; use a HuBERT without it, such as facebook/hubert-base-ls960"
            )
        refuse_adapters(hf)


def refuse_adapters(hf: Mapping[str, Any]) -> None:
    """ValueError for encoders with adapter layers between their own."""
    if hf.get("adapter_attn_dim") is not None:
        raise ValueError(
            "this checkpoint has a language adapter in every layer (adapter_attn_dim in config.json), which the encoder does not "
            "have; use the pre-trained model that it was fine-tuned from, such as facebook/mms-300m or facebook/mms-1b"
        )
