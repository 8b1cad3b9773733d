"""Retrieval of recordings with the same label, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.kinds.learned import Fold, Rows
from sottovoce.evaluation.kinds.lookup import LookupTask, Part
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.metrics import library


@TASKS.register("retrieval")
class Retrieval(LookupTask):
    """Same-label retrieval: each test recording is a query for the others of its label, by cosine; mean average precision.

    A recording without another of its label is no query. The bootstrap draws queries; the recordings to search are fixed.
    """

    title = "Same-label retrieval"
    metrics = (Metric("map"), Metric("first_right"))

    @dataclass(frozen=True)
    class Config(LookupTask.Config):
        """apart: search only recordings of other speakers, so that the voice does not help to find a word. Needs a column
        'speaker'."""

        apart: bool = False

    def prepare(self, fold: Fold) -> Fold:
        if self.config.apart and not all(item.group for part in (fold.dev, fold.test) for item in part):
            raise ValueError("apart needs the speaker of every dev and test recording in a column 'speaker'")
        return super().prepare(fold)

    def rows(self, train: Part, queries: Part, layer: int, choice: Any, seed: int) -> Rows:
        """(N, 3): average precision, whether the nearest recording has the label, and 1; zeros for a recording that is no query."""
        x = queries.vectors[layer]
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        near = x @ x.T
        score = library("sklearn.metrics").average_precision_score
        groups = np.array(queries.groups)
        table = np.zeros((len(x), 3))
        for i in range(len(x)):
            others = groups != groups[i] if self.config.apart else np.arange(len(x)) != i
            right = queries.labels[others] == queries.labels[i]
            if right.any() and not right.all():
                similar = near[i, others]
                table[i] = score(right, similar), right[similar.argmax()], 1
        return table

    def scores(self, rows: Rows) -> tuple[float, ...]:
        """In percent; NaN without queries."""
        count = rows[:, 2].sum()
        return (
            (float("nan"),) * 2 if not count else (float(100 * rows[:, 0].sum() / count), float(100 * rows[:, 1].sum() / count))
        )

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """Number of queries, and the precision of a random order (the mean share of relevant recordings)."""
        labels = [item.target for item in fold.test]
        counts = np.bincount(labels)
        chance = float(np.mean([(counts[label] - 1) / max(1, len(labels) - 1) for label in labels]))
        return {"queries": int(rows[0][:, 2].sum()), "chance": round(100 * chance, 2)}
