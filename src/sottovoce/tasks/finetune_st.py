"""Speech translation with a fine-tuned encoder and a text decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.heads.tuning import Tuning
from sottovoce.evaluation.kinds.finetuning import FineTuned
from sottovoce.tasks.st import Translating, Translation


@TASKS.register("finetune-st")
class FineTunedTranslation(FineTuned, Translation):
    """Speech translation, encoder fine-tuned: a Transformer decoder, beam search; BLEU and chrF, means over source languages."""

    title = "Speech translation, fine-tuned"

    @dataclass(frozen=True)
    class Config(Translating):
        """As `st`. Sizes are those of the decoder of fairseq's small S2T Transformer, characters those of CoVoST 2's baselines."""

        training: Tuning = Tuning()
        units: Literal["characters", "bpe"] = "characters"
        encoder_layers: int = 0
        dim: int = 256
        layers: int = 6
        heads: int = 4
        beam: int = 5
