"""Language identification: which language is spoken."""

from __future__ import annotations

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.kinds.classification import Classification, field


@TASKS.register("lid")
class LanguageIdentification(Classification):
    """Language identification: which language is spoken; accuracy. (If each language is a corpus of its own, its microphones reveal it.)

    Not one of SUPERB's first ten tasks; head and values are those of its other utterance tasks.
    """

    title = "Language identification"
    reads = "the language in a column 'language'"

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"language": field(recording, "language")}
