"""data2vec-audio (arXiv 2202.03555): several small positional convolutions in a row, each with a norm that has no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import EncoderConfig, PositionConfig
from sottovoce.families.base import DEFAULTS, NAMES
from sottovoce.families.wav2vec2 import Wav2Vec2


@FAMILIES.register("data2vec_audio")
class Data2VecAudio(Wav2Vec2):
    """data2vec-audio Base and Large."""

    model_types = ("data2vec-audio",)
    prefix = "data2vec_audio"
    architecture = "Data2VecAudioModel"
    names: ClassVar[Mapping[str, str]] = {
        **{ours: theirs for ours, theirs in NAMES.items() if not ours.startswith("position")},
        "position.convs.#": "encoder.pos_conv_embed.layers.#.conv",
    }
    defaults: ClassVar[Mapping[str, Any]] = {**DEFAULTS, "conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 5}
    # what the class always does, whatever other keys config.json may carry over from wav2vec 2.0
    fixed: ClassVar[Mapping[str, Any]] = {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": False,
        "feat_proj_layer_norm": True,
    }

    def position(self, hf: Mapping[str, Any]) -> PositionConfig:
        return PositionConfig(hf["conv_pos_kernel_size"], self.groups(hf), depth=hf["num_conv_pos_embeddings"], norm=True)

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        position = config.position or PositionConfig(1, 1)
        sizes = {"conv_pos_kernel_size": position.kernel, "num_conv_pos_embeddings": position.depth}
        return {**super().hf_parts(config), **sizes}
