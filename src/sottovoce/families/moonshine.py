"""Moonshine's encoder (Jeffries et al., arXiv 2410.15608)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import ConvConfig, DistanceConfig, EncoderConfig, FrontendConfig, ProjectionConfig
from sottovoce.families.recogniser import LAYER_NAMES, RecogniserEncoder

_LAYER = "layers.#."


@FAMILIES.register("moonshine")
class Moonshine(RecogniserEncoder):
    """The encoder of Moonshine, tiny and base: on the waveform, of any length, 41.7 frames a second.

    Its norm over channels and time sees no padding here, so that a row does not depend on its neighbours; in transformers it does.
    """

    model_types = ("moonshine",)
    architecture = "MoonshineEncoder"
    names: ClassVar[Mapping[str, str]] = {
        **LAYER_NAMES,
        "frontend.convs.0.conv": "conv1",
        "frontend.convs.0.norm": "groupnorm",
        "frontend.convs.1.conv": "conv2",
        "frontend.projection": "conv3",
        "layers.#.attention.out_proj": _LAYER + "self_attn.o_proj",
        "layers.#.attention_norm": _LAYER + "input_layernorm",
        "layers.#.ffn.up_proj": _LAYER + "mlp.fc1",
        "layers.#.ffn.down_proj": _LAYER + "mlp.fc2",
        "layers.#.ffn_norm": _LAYER + "post_attention_layernorm",
    }
    keys: ClassVar[Mapping[str, str]] = {
        "num_hidden_layers": "encoder_num_hidden_layers",
        "num_attention_heads": "encoder_num_attention_heads",
        "hidden_act": "encoder_hidden_act",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 288,
        "intermediate_size": 1152,
        "encoder_num_hidden_layers": 6,
        "encoder_num_attention_heads": 8,
        "encoder_hidden_act": "gelu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.9},
    }
    fixed: ClassVar[Mapping[str, Any]] = {"layer_norm_eps": 1e-5}

    def refuse(self, hf: Mapping[str, Any]) -> None:
        super().refuse(hf)
        heads = hf.get("encoder_num_attention_heads") or self.defaults["encoder_num_attention_heads"]
        if (hf.get("encoder_num_key_value_heads") or heads) != heads:
            raise ValueError(
                f"config.json: encoder_num_key_value_heads {hf['encoder_num_key_value_heads']} is not the number of heads, {heads}; keys "
                "and values that several heads share are not supported"
            )
        rotation = hf.get("rope_parameters") or {}
        if rotation.get("rope_type", "default") != "default":
            raise ValueError(f"config.json: rope_type is {rotation['rope_type']!r}; known: 'default'")

    def filled(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        rotation = dict(self.defaults["rope_parameters"])
        rotation |= {key: hf[key] for key in rotation if key in hf}  # where older files say it
        return super().filled({**hf, "rope_parameters": {**rotation, **(hf.get("rope_parameters") or {})}})

    def frontend(self, hf: Mapping[str, Any]) -> FrontendConfig:
        dim = hf["hidden_size"]
        return FrontendConfig(
            (ConvConfig(dim, 127, 64, bias=False, activation="tanh"), ConvConfig(2 * dim, 7, 3)),
            "whole",
            bias=True,
            projection_norm=False,
            projection=ProjectionConfig(3, 2),
        )

    def distance(self, hf: Mapping[str, Any]) -> DistanceConfig:
        rotation = hf["rope_parameters"]
        width = int(hf["hidden_size"] // hf["num_attention_heads"] * rotation["partial_rotary_factor"])
        if width % 2 or not width:
            raise ValueError(
                f"config.json: partial_rotary_factor turns {width} channels of a head; expected an even number of them"
            )
        return DistanceConfig("rotary_heads", base=int(rotation["rope_theta"]), width=width)

    def special(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        return {"attention_bias": "qkv" if hf["attention_bias"] else "", "norm_bias": False}

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        distance, layer = config.distance or DistanceConfig("rotary_heads"), config.layers[0]
        # a share that gives this width again, whatever the rounding
        share = min(1.0, (distance.width + 0.5) / layer.head_dim)
        return {
            "attention_bias": "q" in config.attention_bias,
            "attention_dropout": config.dropout.attention,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": float(distance.base),
                "partial_rotary_factor": share,
            },
        }
