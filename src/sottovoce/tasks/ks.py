"""Keyword spotting (SUPERB KS): which of a few words is said."""

from __future__ import annotations

from dataclasses import dataclass

from sottovoce.data import Recording
from sottovoce.probing.probe import Training
from sottovoce.registry import TASKS
from sottovoce.tasks.classification import Classification, field


@TASKS.register("ks")
class KeywordSpotting(Classification):
    """Keyword spotting: which of a closed set of words is said; accuracy."""

    title = "Keyword spotting"
    reads = "the keyword in a column 'label'"

    @dataclass(frozen=True)
    class Config:
        """SUPERB's values (s3prl, speech_commands)."""

        training: Training = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=5_000)
        projector: int = 256
        max_seconds: float | None = None

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"label": field(recording, "label")}
