"""Speech recognition by the whole model: its own decoder writes the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.kinds.hosted import HostTask
from sottovoce.evaluation.kinds.learned import Item, Rows
from sottovoce.evaluation.kinds.task import Metric, leading
from sottovoce.evaluation.kinds.transcripts import Decoding, Transcript
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import edits
from sottovoce.evaluation.statistics.texts import Normalization


@TASKS.register("transcribe")
class Transcription(HostTask):
    """Speech recognition through the model's own decoder or head: word and character error rate, nothing is trained."""

    title = "Recognition by the whole model"
    reads = "the transcript in a column 'text'"
    metrics: tuple[Metric, ...] = (Metric("wer", better="lower"), Metric("cer", better="lower"))
    does = "transcribe"
    column = "text"

    @dataclass(frozen=True)
    class Config:
        """normalize: the form of texts that is compared, see `evaluation.statistics.texts`; "none": as written. primary: the metric that
        is reported first. decoding: see `Decoding`."""

        normalize: Normalization = "whisper"
        primary: Literal["wer", "cer"] = "wer"
        decoding: Decoding = Decoding()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metrics = leading(self.metrics, config.primary)

    def count(self, hypothesis: str, reference: str) -> tuple[float, ...]:
        """Word substitutions, deletions, insertions and words of the reference; character errors and characters."""
        characters = edits(reference, hypothesis)
        return (*edits(reference.split(), hypothesis.split()), sum(characters[:3]), characters.tokens)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        words, characters = rows[:, :4], rows[:, 4:]
        values = {"wer": _rate(words), "cer": ratio(characters)}
        return tuple(values[metric.name] for metric in self.metrics)

    def facts(self, rows: Rows, items: Sequence[Item], transcripts: Sequence[Transcript]) -> dict[str, Any]:
        substitutions, deletions, insertions, words = (int(count) for count in rows[:, :4].sum(0))
        counts = {"substitutions": substitutions, "deletions": deletions, "insertions": insertions, "words": words}
        return {"word_errors": counts, **super().facts(rows, items, transcripts)}


def _rate(words: Rows) -> float:
    """The word error rate in percent."""
    total = words[:, 3].sum()
    return float(100 * words[:, :3].sum() / total) if total else float("nan")
