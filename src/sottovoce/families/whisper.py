"""Whisper's encoder (Radford et al., arXiv 2212.04356)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.core.registry import FAMILIES
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import ConvConfig, DropoutConfig, EncoderConfig, FrontendConfig, LogMelConfig, ProjectionConfig
from sottovoce.families.recogniser import LAYER_NAMES, RecogniserEncoder

_LAYER = "layers.#."
FRONT = FrontendConfig((ConvConfig(1, 3, 1, 1),), log_mel=LogMelConfig(), projection=ProjectionConfig(3, 2, 1))


@FAMILIES.register("whisper")
class Whisper(RecogniserEncoder):
    """The encoder of Whisper, tiny to large, with 80 or 128 mel bands; it hears windows of 30 s.

    Its positions are stored in half precision in the released checkpoints, so they are kept as a table, not computed. Behind the table's
    end, for students on longer recordings, they are computed.
    """

    model_types = ("whisper",)
    architecture = "WhisperEncoder"
    names: ClassVar[Mapping[str, str]] = {
        **LAYER_NAMES,
        "frontend.convs.0.conv": "conv1",
        "frontend.projection": "conv2",
        "positions": "embed_positions.weight",
        "layers.#.attention.out_proj": _LAYER + "self_attn.out_proj",
        "layers.#.attention_norm": _LAYER + "self_attn_layer_norm",
        "layers.#.ffn.up_proj": _LAYER + "fc1",
        "layers.#.ffn.down_proj": _LAYER + "fc2",
        "layers.#.ffn_norm": _LAYER + "final_layer_norm",
    }
    keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "hidden_act": "activation_function",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "activation_function": "gelu",
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layer_norm_eps": 1e-5,
    }
    fixed: ClassVar[Mapping[str, Any]] = {"layer_norm_eps": 1e-5}
    certain = True

    def frontend(self, hf: Mapping[str, Any]) -> FrontendConfig:
        return FrontendConfig(
            (ConvConfig(hf["d_model"], 3, 1, 1),),
            "none",
            bias=True,
            projection_norm=False,
            log_mel=LogMelConfig(hf["num_mel_bins"]),
            projection=FRONT.projection,
        )

    def special(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        positions = hf["max_source_positions"]
        window = positions * FRONT.stride
        return {"positions": positions, "sinusoids": hf["d_model"], "window": window, "attention_bias": "qvo"}

    def to_hf(
        self, config: EncoderConfig, state: Mapping[str, Tensor], mask_vector: Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        # which sinusoids the table holds, does not matter within it
        return super().to_hf(dataclasses.replace(config, sinusoids=config.dim), state, mask_vector)

    def dropout(self, hf: Mapping[str, Any]) -> DropoutConfig:
        return DropoutConfig(hidden=hf["dropout"], attention=hf["attention_dropout"], ffn=hf["activation_dropout"])

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        rates = config.dropout
        return {
            "num_mel_bins": config.frontend.inputs,
            "max_source_positions": config.positions,
            "dropout": rates.hidden,
            "attention_dropout": rates.attention,
            "activation_dropout": rates.ffn,
            "encoder_layerdrop": 0.0,
        }

    def preprocessor(self, config: EncoderConfig, normalize: bool) -> dict[str, Any]:
        return {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": config.frontend.inputs,
            "hop_length": LogMelConfig.hop,
            "n_fft": LogMelConfig.size,
            "chunk_length": config.window // SAMPLE_RATE,
            "n_samples": config.window,
            "nb_max_frames": config.window // LogMelConfig.hop,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
            "sampling_rate": SAMPLE_RATE,
        }

    def check_preprocessor(self, config: EncoderConfig, preprocessor: Mapping[str, Any]) -> None:
        ours = self.preprocessor(config, False)
        checked = ("feature_extractor_type", "feature_size", "hop_length", "n_fft", "padding_value")
        for key in checked:
            given = preprocessor.get(key, ours[key])
            if given != ours[key]:
                raise ValueError(
                    f"preprocessor_config.json says {key} {given!r}, which does not fit config.json (it would be {ours[key]!r}); put the "
                    "file of the original model there"
                )
        if preprocessor.get("dither") or preprocessor.get("do_normalize"):
            raise ValueError(
                "preprocessor_config.json asks for dither or do_normalize, which this encoder does not do; take them out"
            )
