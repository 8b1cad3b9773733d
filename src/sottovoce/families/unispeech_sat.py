"""UniSpeech (arXiv 2101.07597) and UniSpeech-SAT (arXiv 2110.05752): wav2vec 2.0's encoder, other training."""

from __future__ import annotations

from sottovoce.core.registry import FAMILIES
from sottovoce.families.wav2vec2 import Wav2Vec2


@FAMILIES.register("unispeech_sat")
class UniSpeechSat(Wav2Vec2):
    """UniSpeech-SAT Base, Base+ and Large."""

    model_types = ("unispeech-sat",)
    prefix = "unispeech_sat"
    architecture = "UniSpeechSatModel"


@FAMILIES.register("unispeech")
class UniSpeech(Wav2Vec2):
    """UniSpeech Large and its multilingual variants."""

    model_types = ("unispeech",)
    prefix = "unispeech"
    architecture = "UniSpeechModel"
