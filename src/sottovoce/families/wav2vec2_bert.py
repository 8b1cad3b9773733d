"""w2v-BERT 2.0 (Seamless Communication, arXiv 2312.05187)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sottovoce.core.registry import FAMILIES
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import ConvolutionConfig, EncoderConfig, FbankConfig, FrontendConfig
from sottovoce.families.conformer import CONFORMER_NAMES, ConformerFamily

MELS = 80  # of SeamlessM4TFeatureExtractor, which every published checkpoint comes with
NORMALIZE = "do_normalize_per_mel_bins"  # an argument of that extractor's call, on by default; we keep it in config.json


@FAMILIES.register("wav2vec2_bert")
class Wav2Vec2Bert(ConformerFamily):
    """w2v-BERT 2.0: Conformer layers on a filter bank, which is computed in the encoder.

    transformers makes ceil(windows / 2) frames and masks the last where it is only half filled; here it does not exist.
    """

    model_types = ("wav2vec2-bert",)
    prefix = "wav2vec2_bert"
    architecture = "Wav2Vec2BertModel"
    names: ClassVar[Mapping[str, str]] = {
        **CONFORMER_NAMES,
        "layers.#.convolution.norm": "encoder.layers.#.conv_module.depthwise_layer_norm",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feature_projection_input_dim": 160,
        "hidden_act": "swish",
        "layer_norm_eps": 1e-5,
        "feat_proj_dropout": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "conformer_conv_dropout": 0.1,
        "conv_depthwise_kernel_size": 31,
        "position_embeddings_type": "relative_key",
        "rotary_embedding_base": 10_000,
        "left_max_position_embeddings": 64,
        "right_max_position_embeddings": 8,
        NORMALIZE: True,
    }
    fixed: ClassVar[Mapping[str, Any]] = {}
    normed = False
    certain = True

    def frontend(self, hf: Mapping[str, Any]) -> FrontendConfig:
        width = hf["feature_projection_input_dim"]
        if width % MELS or not width:
            raise ValueError(
                f"config.json: feature_projection_input_dim is {width}, which is not made of frames of {MELS} mel bins"
            )
        return FrontendConfig((), fbank=FbankConfig(MELS, width // MELS, hf[NORMALIZE]))

    def convolution(self, hf: Mapping[str, Any]) -> ConvolutionConfig:
        return ConvolutionConfig(hf["conv_depthwise_kernel_size"], causal=True)

    def normalize(self, hf: Mapping[str, Any]) -> bool:
        return False  # the scale of the waveform is lost in any case: in the norm per utterance, or in that of the projection

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        fbank = config.frontend.fbank or FbankConfig(0)
        return {**super().hf_parts(config), "feature_projection_input_dim": fbank.dim, NORMALIZE: fbank.normalize}

    def preprocessor(self, config: EncoderConfig, normalize: bool) -> dict[str, Any]:
        fbank = config.frontend.fbank or FbankConfig()
        return {
            "feature_extractor_type": "SeamlessM4TFeatureExtractor",
            "feature_size": fbank.mels,
            "num_mel_bins": fbank.mels,
            "stride": fbank.stack,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": SAMPLE_RATE,
        }

    def check_preprocessor(self, config: EncoderConfig, preprocessor: Mapping[str, Any]) -> None:
        ours = self.preprocessor(config, False)
        # what is left out has the default of the extractor's class
        given = {"feature_extractor_type": ours["feature_extractor_type"], "num_mel_bins": MELS, "stride": 2} | dict(preprocessor)
        for key in ("feature_extractor_type", "num_mel_bins", "stride"):
            if preprocessor and given[key] != ours[key]:
                raise ValueError(
                    f"preprocessor_config.json says {key} {given[key]!r}, which does not fit config.json (it would be "
                    f"{ours[key]!r}); put the file of the original model there"
                )
