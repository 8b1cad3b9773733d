"""Intent classification (SUPERB IC) of spoken commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.kinds.classification import Classification, UtteranceHead, field
from sottovoce.evaluation.kinds.probing import Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric, leading
from sottovoce.evaluation.statistics.bootstrap import ratio

METRICS = (Metric("accuracy"), Metric("answers"))


@TASKS.register("ic")
class IntentClassification(Classification):
    """Intent classification: action, object, location (or other questions); correct only if every answer is; accuracy."""

    title = "Intent classification"
    reads = "the intent in a column 'intent': a word, or a JSON object of questions and answers"

    @dataclass(frozen=True)
    class Config(UtteranceHead):
        """SUPERB's values (s3prl, fluent_commands). field: the column with the intent.

        primary: the metric to tune. ``accuracy`` counts utterances with all answers correct, ``answers`` single correct answers.
        """

        field: str = "intent"
        primary: Literal["accuracy", "answers"] = "accuracy"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.metrics = leading(METRICS, config.primary)

    def answers(self, recording: Recording) -> dict[str, str]:
        text = field(recording, self.config.field)
        if not text.startswith("{"):
            return {"intent": text}
        try:
            intent = json.loads(text)
        except ValueError:
            raise Unusable("the intent is not valid JSON") from None
        return {str(question): str(answer) for question, answer in intent.items()}

    def scores(self, rows: Rows) -> tuple[float, ...]:
        values = {"accuracy": ratio(rows[:, :2]), "answers": ratio(rows[:, 2:])}
        return tuple(values[metric.name] for metric in self.metrics)
