"""WavLM (arXiv 2110.13900): gated relative positions in every layer, one table of them in layer 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import EncoderConfig, RelativeConfig
from sottovoce.families.base import DEFAULTS, NAMES, Family


@FAMILIES.register("wavlm")
class WavLM(Family):
    """WavLM Base, Base+ and Large."""

    model_types = ("wavlm",)
    prefix = "wavlm"
    architecture = "WavLMModel"
    names: ClassVar[Mapping[str, str]] = {
        **NAMES,
        "relative": "encoder.layers.0.attention.rel_attn_embed",
        "layers.#.attention.gate": "encoder.layers.#.attention.gru_rel_pos_linear",
        "layers.#.attention.gate.const": "encoder.layers.#.attention.gru_rel_pos_const",
    }
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "num_buckets": 320, "max_bucket_distance": 800}

    def relative(self, hf: Mapping[str, Any]) -> RelativeConfig:
        return RelativeConfig(hf["num_buckets"], hf["max_bucket_distance"], hf["num_attention_heads"])

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        table = config.relative or RelativeConfig(0, 0, 0)
        return {**super().hf_parts(config), "num_buckets": table.buckets, "max_bucket_distance": table.max_distance}

    def from_hf(self, ours: str, tensor: Tensor) -> Tensor:
        if ours.endswith("gate.const") and tuple(tensor.shape) == (1, tensor.numel(), 1, 1):
            return tensor.flatten()
        return tensor

    def into_hf(self, ours: str, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1, 1, 1) if ours.endswith("gate.const") else tensor
