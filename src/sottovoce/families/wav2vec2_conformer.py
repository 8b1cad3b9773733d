"""wav2vec 2.0 with Conformer layers (arXiv 2010.05171, fairseq S2T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import ConvolutionConfig, EncoderConfig
from sottovoce.families.base import DEFAULTS, NAMES, Family
from sottovoce.families.conformer import CONFORMER_NAMES, ConformerFamily

EPS = 1e-5  # of the norms inside the layers, whatever config.json says


@FAMILIES.register("wav2vec2_conformer")
class Wav2Vec2Conformer(ConformerFamily):
    """wav2vec 2.0 Conformer, with rotary or relative positions.

    Its convolutions see no padding here, so that a row does not depend on its neighbours; in transformers they do (the encoder's
    ``frontend.norm_over_padding`` brings that back).
    """

    model_types = ("wav2vec2-conformer",)
    prefix = "wav2vec2_conformer"
    architecture = "Wav2Vec2ConformerModel"
    positions = ("relative", "rotary")
    names: ClassVar[Mapping[str, str]] = {
        **CONFORMER_NAMES,
        "norm": NAMES["norm"],
        "layers.#.convolution.norm": "encoder.layers.#.conv_module.batch_norm",
        "layers.#.convolution.norm.mean": "encoder.layers.#.conv_module.batch_norm.running_mean",
        "layers.#.convolution.norm.variance": "encoder.layers.#.conv_module.batch_norm.running_var",
    }
    # a positional convolution is there in every checkpoint and takes no part
    idle = (
        r"encoder\.pos_conv_embed\..*",
        r"encoder\.embed_positions\..*",
        r"encoder\.layers\.\d+\.conv_module\.batch_norm\.num_batches_tracked",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in DEFAULTS.items() if key != "do_stable_layer_norm"},
        "conformer_conv_dropout": 0.1,
        "conv_depthwise_kernel_size": 31,
        "position_embeddings_type": "relative",
        "rotary_embedding_base": 10_000,
    }

    def refuse(self, hf: Mapping[str, Any]) -> None:
        super().refuse(hf)
        eps = hf.get("layer_norm_eps", EPS)
        if eps != EPS:
            raise ValueError(f"config.json: layer_norm_eps is {eps}, which transformers uses for some norms only; known: {EPS}")

    def convolution(self, hf: Mapping[str, Any]) -> ConvolutionConfig:
        return ConvolutionConfig(hf["conv_depthwise_kernel_size"], norm="batch")

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        # the idle convolution as small as it gets
        idle = {"num_conv_pos_embeddings": 1, "num_conv_pos_embedding_groups": config.dim}
        return {**Family.hf_parts(self, config), **super().hf_parts(config), **idle}

    def idle_tensors(self, config: EncoderConfig) -> dict[str, Tensor]:
        tensors = {"encoder.pos_conv_embed.conv.weight": torch.zeros(config.dim, 1, 1)}
        tensors["encoder.pos_conv_embed.conv.bias"] = torch.zeros(config.dim)
        for i in range(len(config.layers)):
            tensors[f"encoder.layers.{i}.conv_module.batch_norm.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        if config.distance is not None and config.distance.kind == "rotary":
            steps = torch.arange(0, config.layers[0].head_dim, 2) / config.layers[0].head_dim
            tensors["encoder.embed_positions.inv_freq"] = 1.0 / config.distance.base**steps
        return tensors
