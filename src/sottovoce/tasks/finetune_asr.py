"""Multilingual speech recognition with a fine-tuned encoder: one model, one alphabet, many languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.heads.tuning import Tuning
from sottovoce.evaluation.kinds.ctc import BLSTM, Masks, Outputs
from sottovoce.evaluation.kinds.finetuning import FineTuned
from sottovoce.tasks.asr import SpeechRecognition


@TASKS.register("finetune-asr")
class MultilingualRecognition(FineTuned, SpeechRecognition):
    """Multilingual speech recognition, encoder fine-tuned: characters with CTC; error rates, means over languages.

    All languages share one alphabet. Fine-tuning follows wav2vec 2.0 (Baevski et al. 2020), scoring FLEURS (Conneau et al. 2022); what
    else CoLLD (Chang et al. 2024) did is not known.
    """

    title = "Multilingual speech recognition"

    @dataclass(frozen=True)
    class Config:
        """primary: tuned on the dev set and reported first; FLEURS reports "cer", since not all languages separate words.

        layers: of a BLSTM of `units` between encoder and output; 0, as in wav2vec 2.0: one linear layer. subsample: as in `BLSTM`.
        """

        training: Tuning = Tuning()
        primary: Literal["wer", "cer"] = "cer"
        dropout: float = 0.0
        layers: int = 0
        units: int = 256
        subsample: int = 1

    def head(self, dim: int) -> nn.Module:
        config, classes = self.config, len(self.alphabet) + 1
        if not config.layers:
            return Output(dim, classes, config.dropout)
        off = Masks(0, 0, 0, 0)
        return BLSTM(dim, classes, config.units, config.layers, config.units, config.dropout, config.subsample, off)


class Output(nn.Module):
    """A linear layer, frame by frame."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(dim, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Outputs:
        return self.output(self.dropout(x)).log_softmax(-1), lengths
