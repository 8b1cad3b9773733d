"""Speech recognition (SUPERB ASR) with characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.ctc import CTC, SPACE, Recurrent, spelled
from sottovoce.evaluation.kinds.probing import Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric, leading
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import character_errors, word_errors
from sottovoce.evaluation.statistics.texts import normalized


@TASKS.register("asr")
class SpeechRecognition(CTC):
    """Speech recognition: characters with CTC, no language model; word and character error rate."""

    title = "Speech recognition"
    reads = "the transcript in a column 'text'"
    metrics: tuple[Metric, ...] = (Metric("wer", better="lower"), Metric("cer", better="lower"))

    @dataclass(frozen=True)
    class Config(Recurrent):
        """SUPERB's values (s3prl, asr).

        primary: the metric that is tuned on the dev set and reported first. With little data or a weak model nearly all words are wrong in
        all trials, and only "cer" can rank them.
        """

        primary: Literal["wer", "cer"] = "wer"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metrics = leading(self.metrics, config.primary)

    def target(self, recording: Recording) -> str:
        text = normalized(field(recording, "text"))
        if not text:
            raise Unusable("no letters in the text")
        return text

    def tokens(self, answer: str) -> list[str]:
        return spelled(answer)

    def head(self, dim: int) -> nn.Module:
        head: nn.Module = self.config.head(dim, len(self.alphabet) + 1)
        return head

    def errors(self, answer: str, tokens: list[str]) -> tuple[float, ...]:
        text = "".join(tokens).replace(SPACE, " ")
        return (*word_errors(answer, text), *character_errors(answer, text))

    def scores(self, rows: Rows) -> tuple[float, ...]:
        values = {"wer": ratio(rows[:, :2]), "cer": ratio(rows[:, 2:])}
        return tuple(values[metric.name] for metric in self.metrics)
