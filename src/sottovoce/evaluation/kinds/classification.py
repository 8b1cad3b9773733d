"""Classification of whole utterances with SUPERB's head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.data import Recording
from sottovoce.evaluation.features.store import Kind
from sottovoce.evaluation.heads.linear import MeanPool
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.probing import Fold, Item, ProbeTask, Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.bootstrap import ratio


@dataclass(frozen=True)
class UtteranceHead:
    """Settings of tasks on whole utterances. Defaults: SUPERB's (s3prl: speech_commands, fluent_commands, voxceleb1).

    projector: width of the projection. max_seconds: only this much of a recording is used, from its start.
    """

    training: Training = Training()
    projector: int = 256
    max_seconds: float | None = None


class Classification(ProbeTask):
    """Answers one or several questions about an utterance, each with its own classes. Correct only if every answer is.

    A subclass says in `answers` what the questions are. Its Config is an `UtteranceHead`.
    """

    Config: ClassVar[type] = UtteranceHead
    kind: ClassVar[Kind] = "pooled"
    version = 2  # 1: 200,000 updates were the default schedule
    superb = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=5_000)
    metrics: tuple[Metric, ...] = (Metric("accuracy"),)

    def answers(self, recording: Recording) -> dict[str, str]:
        """Question -> answer. Raises Unusable."""
        raise TypeError(f"{type(self).__name__} must define answers")

    def target(self, recording: Recording) -> dict[str, str]:
        return self.answers(recording)

    def prepare(self, fold: Fold) -> Fold:
        questions = sorted({question for item in fold.train for question in item.target})
        answers = {q: sorted({item.target.get(q, "") for item in fold.train}) for q in questions}
        if all(len(classes) < 2 for classes in answers.values()):
            raise ValueError(f"{self.name} needs at least two classes in the train split; it reads {self.reads}")
        self.classes = {q: classes for q, classes in answers.items() if len(classes) > 1}
        index = {q: {answer: i for i, answer in enumerate(classes)} for q, classes in self.classes.items()}

        def numbered(items: list[Item]) -> list[Item]:
            return [replace(item, target=[index[q].get(item.target.get(q, ""), -1) for q in index]) for item in items]

        return Fold(numbered(fold.train), numbered(fold.dev), numbered(fold.test))

    def head(self, dim: int) -> nn.Module:
        return MeanPool(dim, self.config.projector, [len(classes) for classes in self.classes.values()])

    def loss(self, outputs: list[Tensor], lengths: Tensor, targets: list[list[int]]) -> Tensor:
        answers = torch.tensor(targets, device=lengths.device)
        return torch.stack([F.cross_entropy(out, answers[:, i]) for i, out in enumerate(outputs)]).sum()

    def count(self, outputs: list[Tensor], lengths: Tensor, targets: list[list[int]]) -> Rows:
        """(B, 4): whether all answers are correct, 1, correct answers, answers. An answer that training never had (-1) is never correct."""
        predicted = torch.stack([out.argmax(-1) for out in outputs], dim=1).cpu().numpy()
        right = predicted == np.array(targets)
        columns = [right.all(1), np.ones(len(right)), right.sum(1), np.full(len(right), right.shape[1])]
        return np.column_stack(columns).astype(np.float64)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return (ratio(rows),)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """Number of classes, and the accuracy of always giving the most frequent answer to the first question."""
        details: dict[str, Any] = {"classes": {q: len(classes) for q, classes in self.classes.items()}}
        counts = np.bincount([item.target[0] for item in fold.train])
        details["majority"] = round(100 * float(np.mean([item.target[0] == counts.argmax() for item in fold.test])), 2)
        return details


def field(recording: Recording, *names: str) -> str:
    """The value of the first of these fields that has one. Raises Unusable when none has."""
    for name in names:
        value = recording.fields.get(name, "").strip()
        if value:
            return value
    raise Unusable(f"no {' or '.join(names)}")
