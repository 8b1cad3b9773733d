"""What the families with Conformer layers share: transformers gives the parts of such a layer the same names in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.encoder import DistanceConfig, DropoutConfig, EncoderConfig, LayerConfig, PositionConfig
from sottovoce.families.base import NAMES, Family

_LAYER = "encoder.layers.#."
CONFORMER_NAMES: dict[str, str] = {
    **{ours: theirs for ours, theirs in NAMES.items() if ours.startswith("frontend")},
    "layers.#.ffn1_norm": _LAYER + "ffn1_layer_norm",
    "layers.#.ffn1.up_proj": _LAYER + "ffn1.intermediate_dense",
    "layers.#.ffn1.down_proj": _LAYER + "ffn1.output_dense",
    "layers.#.attention_norm": _LAYER + "self_attn_layer_norm",
    "layers.#.attention.q_proj": _LAYER + "self_attn.linear_q",
    "layers.#.attention.k_proj": _LAYER + "self_attn.linear_k",
    "layers.#.attention.v_proj": _LAYER + "self_attn.linear_v",
    "layers.#.attention.out_proj": _LAYER + "self_attn.linear_out",
    "layers.#.attention.distance": _LAYER + "self_attn.distance_embedding",
    "layers.#.attention.distance.proj": _LAYER + "self_attn.linear_pos",
    "layers.#.attention.distance.u": _LAYER + "self_attn.pos_bias_u",
    "layers.#.attention.distance.v": _LAYER + "self_attn.pos_bias_v",
    "layers.#.convolution_norm": _LAYER + "conv_module.layer_norm",
    "layers.#.convolution.in_proj": _LAYER + "conv_module.pointwise_conv1",
    "layers.#.convolution.depthwise": _LAYER + "conv_module.depthwise_conv",
    "layers.#.convolution.out_proj": _LAYER + "conv_module.pointwise_conv2",
    "layers.#.ffn_norm": _LAYER + "ffn2_layer_norm",
    "layers.#.ffn.up_proj": _LAYER + "ffn2.intermediate_dense",
    "layers.#.ffn.down_proj": _LAYER + "ffn2.output_dense",
    "layers.#.norm": _LAYER + "final_layer_norm",
}
IN_PROJ, OUT_PROJ = ".convolution.in_proj.weight", ".convolution.out_proj.weight"

# position_embeddings_type in config.json -> `DistanceConfig.kind`; null for none at all.
KINDS = {"relative_key": "key", "relative": "sinusoid", "rotary": "rotary"}


class ConformerFamily(Family):
    """An encoder of Conformer layers. Adapters (add_adapter in config.json) are left out: hidden states are those of the encoder."""

    positions: ClassVar[tuple[str, ...]] = tuple(KINDS)  # the values of position_embeddings_type that the class knows

    def filled(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        values, key = super().filled(hf), "position_embeddings_type"
        return {**values, key: hf.get(key, self.defaults[key])}  # null means none here, not the default

    def position(self, hf: Mapping[str, Any]) -> PositionConfig | None:
        return None

    def norm_first(self, hf: Mapping[str, Any]) -> bool:
        return True

    def layer(self, hf: Mapping[str, Any]) -> LayerConfig:
        dim, units = hf["hidden_size"], hf["intermediate_size"]
        heads = hf["num_attention_heads"]
        return LayerConfig(heads, dim // heads, units, kind="conformer", ffn1_dim=units, glu_dim=dim)

    def distance(self, hf: Mapping[str, Any]) -> DistanceConfig | None:
        kind = hf["position_embeddings_type"]
        if kind is None:
            return None
        if kind not in self.positions:
            raise ValueError(f"config.json: position_embeddings_type is {kind!r}; known: {', '.join(self.positions)}, null")
        width = hf["hidden_size"] if kind == "relative" else hf["hidden_size"] // hf["num_attention_heads"]
        if kind != "relative_key" and width % 2:
            raise ValueError(f"config.json: position_embeddings_type {kind!r} needs an even width, not {width}")
        if kind == "relative_key":
            return DistanceConfig("key", hf["left_max_position_embeddings"], hf["right_max_position_embeddings"])
        return DistanceConfig(KINDS[kind], base=hf["rotary_embedding_base"]) if kind == "rotary" else DistanceConfig(KINDS[kind])

    def dropout(self, hf: Mapping[str, Any]) -> DropoutConfig:
        return replace(super().dropout(hf), convolution=hf["conformer_conv_dropout"])

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        distance = config.distance
        names = {kind: name for name, kind in KINDS.items()}
        keys: dict[str, Any] = {
            "position_embeddings_type": None if distance is None else names[distance.kind],
            "conv_depthwise_kernel_size": config.convolution.kernel,
            "conformer_conv_dropout": config.dropout.convolution,
            "add_adapter": False,
        }
        if distance is not None and distance.kind == "key":
            keys |= {"left_max_position_embeddings": distance.left, "right_max_position_embeddings": distance.right}
        elif distance is not None and distance.kind == "rotary":
            keys["rotary_embedding_base"] = distance.base
        return keys

    def from_hf(self, ours: str, tensor: Tensor) -> Tensor:
        """Convolutions over one frame become matrices; all values and then all gates become a value and a gate for each channel."""
        if ours.endswith((IN_PROJ, OUT_PROJ)) and tensor.dim() == 3 and tensor.shape[2] == 1:
            tensor = tensor.squeeze(2)
            if ours.endswith(IN_PROJ) and tensor.shape[0] % 2 == 0:
                tensor = tensor.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
        return tensor

    def into_hf(self, ours: str, tensor: Tensor) -> Tensor:
        if ours.endswith(IN_PROJ):
            tensor = tensor.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        return tensor.unsqueeze(2) if ours.endswith((IN_PROJ, OUT_PROJ)) else tensor
