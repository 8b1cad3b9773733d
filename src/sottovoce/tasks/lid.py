"""Language identification: which language is spoken."""

from __future__ import annotations

from dataclasses import dataclass

from sottovoce.data import Recording
from sottovoce.probing.probe import Training
from sottovoce.registry import TASKS
from sottovoce.tasks.classification import Classification, field


@TASKS.register("lid")
class LanguageIdentification(Classification):
    """Language identification: which language is spoken; accuracy. (Where every language is a corpus of its own, microphones tell.)"""

    title = "Language identification"
    reads = "the language in a column 'language'"

    @dataclass(frozen=True)
    class Config:
        """SUPERB has no such task in its first ten; head and values are those of its other utterance tasks."""

        training: Training = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=5_000)
        projector: int = 256
        max_seconds: float | None = None

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"language": field(recording, "language")}
