"""Moonshine (Jeffries et al., arXiv 2410.15608)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sottovoce.core.registry import HOSTS
from sottovoce.hosts.decoders import DecoderHost


@HOSTS.register("moonshine")
class MoonshineHost(DecoderHost):
    """Moonshine with its decoder: recordings of any length to English text."""

    model_types = ("moonshine",)

    def complete(self, tensors: Mapping[str, Tensor]) -> None:
        super().complete(tensors)
        decoder: Any = self.rest.get_submodule("model.decoder")
        decoder.rotary_emb = type(decoder.rotary_emb)(self.rest.config)  # its frequencies are in no checkpoint
