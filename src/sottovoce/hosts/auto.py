"""Makes ``AutoModelForCTC.from_pretrained(student)`` and the like work after ``import sottovoce``, as `hub.auto` does for bare students.

transformers' classes with a decoder take time to import, and their configurations cannot be imported while AutoConfig is. So a
configuration that stands for them is registered, and they themselves follow when a student's config.json is read.
"""

from __future__ import annotations

from typing import Any

from sottovoce.hub.auto import ACTIONS, CONFIGS, MODELS


def _configs() -> None:
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.models.auto.configuration_auto import AutoConfig

    from sottovoce.families.student_config import DECODER_TYPES

    def from_dict(cls: type, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return _decoders()[config_dict["model_type"]].from_dict(config_dict, **kwargs)

    for kind in DECODER_TYPES.values():
        members = {"model_type": kind, "from_dict": classmethod(from_dict), "__module__": __name__}
        AutoConfig.register(kind, type("DecoderStudentConfig", (PreTrainedConfig,), members), exist_ok=True)


def _decoders() -> dict[str, Any]:
    """Registers the students that a decoder reads. Returns their configurations by model_type."""
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSpeechSeq2Seq

    from sottovoce.hosts.remote import decoders

    configs = {}
    for whole, student in (
        (decoders.WhisperForConditionalGeneration, decoders.WhisperStudent),
        (decoders.MoonshineForConditionalGeneration, decoders.MoonshineStudent),
    ):
        config: Any = whole.config_class
        AutoModelForSpeechSeq2Seq.register(config, whole, exist_ok=True)
        AutoModel.register(config, student, exist_ok=True)
        configs[config.model_type] = config
    return configs


def _models() -> None:
    from transformers.models.auto import modeling_auto as auto

    from sottovoce.hosts.remote import heads
    from sottovoce.hub.configuration import SottovoceConfig

    auto.AutoModelForCTC.register(SottovoceConfig, heads.SottovoceForCTC, exist_ok=True)
    auto.AutoModelForAudioClassification.register(SottovoceConfig, heads.Wav2Vec2ForSequenceClassification, exist_ok=True)
    auto.AutoModelForAudioFrameClassification.register(SottovoceConfig, heads.SottovoceForAudioFrameClassification, exist_ok=True)
    auto.AutoModelForAudioXVector.register(SottovoceConfig, heads.SottovoceForXVector, exist_ok=True)


ACTIONS[CONFIGS].append(_configs)
ACTIONS[MODELS].append(_models)
