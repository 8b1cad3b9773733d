"""Speech recognition (SUPERB ASR): the words that are said, letter by letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sottovoce.data import Recording
from sottovoce.probing.bootstrap import ratio
from sottovoce.probing.metrics import character_errors, word_errors
from sottovoce.probing.probe import Training
from sottovoce.registry import TASKS
from sottovoce.tasks.base import Metric
from sottovoce.tasks.classification import field
from sottovoce.tasks.ctc import BLSTM, CTC, SPACE, Masks, normalized, spelled
from sottovoce.tasks.probe import Rows, Unusable


@TASKS.register("asr")
class SpeechRecognition(CTC):
    """Speech recognition: characters with CTC, no language model; word and character error rate."""

    title = "Speech recognition"
    reads = "what is said in a column 'text'"
    metrics: tuple[Metric, ...] = (Metric("wer", better="lower"), Metric("cer", better="lower"))

    @dataclass(frozen=True)
    class Config:
        """SUPERB's values (s3prl, asr). projector, layers, units, dropout, subsample, masks: see `tasks.ctc.BLSTM`.

        primary: what is tuned on the dev set and comes first. With little data or a weak model nearly all words are wrong, whatever is
        tried, and only "cer" tells one trial from another.
        """

        training: Training = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=2_000)
        projector: int = 1024
        layers: int = 2
        units: int = 1024
        dropout: float = 0.2
        subsample: int = 1
        masks: Masks = Masks()
        primary: Literal["wer", "cer"] = "wer"
        max_seconds: float | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metrics = tuple(sorted(self.metrics, key=lambda metric: metric.name != config.primary))

    def target(self, recording: Recording) -> str:
        text = normalized(field(recording, "text"))
        if not text:
            raise Unusable("no letters in the text")
        return text

    def tokens(self, answer: str) -> list[str]:
        return spelled(answer)

    def head(self, dim: int) -> nn.Module:
        c = self.config
        return BLSTM(dim, len(self.alphabet) + 1, c.projector, c.layers, c.units, c.dropout, c.subsample, c.masks)

    def errors(self, answer: str, said: list[str]) -> tuple[float, ...]:
        text = "".join(said).replace(SPACE, " ")
        return (*word_errors(answer, text), *character_errors(answer, text))

    def scores(self, rows: Rows) -> tuple[float, ...]:
        found = {"wer": ratio(rows[:, :2]), "cer": ratio(rows[:, 2:])}
        return tuple(found[metric.name] for metric in self.metrics)
