"""What the families share whose encoder comes with a decoder: recognisers and translators."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.encoder import DropoutConfig, EncoderConfig, LayerConfig, PositionConfig
from sottovoce.families.base import Family

_LAYER = "layers.#."
LAYER_NAMES: dict[str, str] = {
    "layers.#.attention.q_proj": _LAYER + "self_attn.q_proj",
    "layers.#.attention.k_proj": _LAYER + "self_attn.k_proj",
    "layers.#.attention.v_proj": _LAYER + "self_attn.v_proj",
    "norm": "layer_norm",
}


class RecogniserEncoder(Family):
    """The encoder of a model with a decoder. Names are those of transformers' encoder class, which also takes the way back; what the whole
    model is (its decoder, its vocabulary) is left out."""

    prefix = "encoder"
    fixed: ClassVar[Mapping[str, Any]] = {}
    keys: ClassVar[Mapping[str, str]]  # the base class's name of a size -> this config.json's

    def filled(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        values = super().filled(hf)
        return {**values, **{ours: values[theirs] for ours, theirs in self.keys.items()}}

    def position(self, hf: Mapping[str, Any]) -> PositionConfig | None:
        return None

    def norm_first(self, hf: Mapping[str, Any]) -> bool:
        return True

    def inner_names(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: re.sub(r"^(model\.)?(encoder\.)?", "", name) for name in tensors}

    def is_head(self, outer: str, name: str) -> bool:
        return name.split(".")[0] in ("decoder", "proj_out", "projector", "classifier", "layer_weights")

    def heads(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inner = self.inner_names(tensors)
        return {name: tensor for name, tensor in tensors.items() if self.is_head(name, inner[name])}

    def normalize(self, hf: Mapping[str, Any]) -> bool:
        return False

    def hf_config(self, config: EncoderConfig) -> dict[str, Any]:
        layer = config.layers[0] if config.layers else LayerConfig(1, config.dim, config.dim)
        ours = {
            "hidden_size": config.dim,
            "num_hidden_layers": len(config.layers),
            "num_attention_heads": max(1, layer.num_heads),
            "intermediate_size": layer.ffn_dim,
            "hidden_act": config.activation,
        }
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            "dtype": "float32",
            "is_encoder_decoder": True,
            **{self.keys.get(key, key): value for key, value in ours.items()},
            **self.hf_parts(config),
        }

    def dropout(self, hf: Mapping[str, Any]) -> DropoutConfig:
        return DropoutConfig(attention=hf["attention_dropout"])
