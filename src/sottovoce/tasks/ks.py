"""Keyword spotting (SUPERB KS): which of a few words is said."""

from __future__ import annotations

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.kinds.classification import Classification, field


@TASKS.register("ks")
class KeywordSpotting(Classification):
    """Keyword spotting: which of a closed set of words is said; accuracy."""

    title = "Keyword spotting"
    reads = "the keyword in a column 'label'"

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"label": field(recording, "label")}
