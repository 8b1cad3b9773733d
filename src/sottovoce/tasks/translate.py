"""Speech translation by the whole model: its own decoder writes the translation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sottovoce.core.registry import TASKS
from sottovoce.data import Recordings
from sottovoce.evaluation.kinds.hosted import HostTask
from sottovoce.evaluation.kinds.learned import Item, Rows
from sottovoce.evaluation.kinds.task import Metric, leading
from sottovoce.evaluation.kinds.transcripts import Decoding, Transcript
from sottovoce.evaluation.statistics.metrics import CorpusScore
from sottovoce.evaluation.statistics.texts import ENGLISH, Normalization


@TASKS.register("translate")
class HostTranslation(HostTask):
    """Speech translation into English through the model's own decoder: BLEU and chrF by sacrebleu, nothing is trained."""

    title = "Translation by the whole model"
    reads = "the English translation in a column 'translation'"
    metrics: tuple[Metric, ...] = (Metric("bleu", ""), Metric("chrf", ""))
    does = "translate"
    column = "translation"
    written = ENGLISH

    @dataclass(frozen=True)
    class Config:
        """normalize: the form of texts that is compared, see `evaluation.statistics.texts`. primary: the metric that is reported first.
        tokenize: sacrebleu's for BLEU. decoding: see `Decoding`."""

        normalize: Normalization = "none"
        primary: Literal["bleu", "chrf"] = "bleu"
        tokenize: str = "13a"
        decoding: Decoding = Decoding()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metrics = leading(self.metrics, config.primary)

        self.bleu = CorpusScore("BLEU", tokenize=config.tokenize, force=True)  # force: no warning of spaced full stops
        self.chrf = CorpusScore("CHRF")

    def arrange(self, recordings: Recordings) -> Recordings:
        """Those that are not in English."""
        return recordings.with_items(item for item in recordings if self.language(item) != ENGLISH)

    def count(self, hypothesis: str, reference: str) -> tuple[float, ...]:
        """Counts for BLEU, then counts for chrF."""
        return (*self.bleu.parts(hypothesis, reference), *self.chrf.parts(hypothesis, reference))

    def scores(self, rows: Rows) -> tuple[float, ...]:
        values = {"bleu": self.bleu.score(rows[:, : self.bleu.width]), "chrf": self.chrf.score(rows[:, self.bleu.width :])}
        return tuple(values[metric.name] for metric in self.metrics)

    def facts(self, rows: Rows, items: Sequence[Item], transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """Also sacrebleu's signatures, to publish with the scores."""
        signatures = {"bleu": self.bleu.signature, "chrf": self.chrf.signature}
        return {"signatures": signatures, **super().facts(rows, items, transcripts)}
