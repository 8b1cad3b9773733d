"""Classification by the nearest neighbours in the encoder's features, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.kinds.learned import Fold, Rows
from sottovoce.evaluation.kinds.lookup import LookupTask, Part
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import library


@TASKS.register("knn")
class NearestNeighbours(LookupTask):
    """k-nearest-neighbour classification: a vote of the nearest training recordings, by cosine; accuracy."""

    title = "Nearest neighbours"
    metrics = (Metric("accuracy"),)

    @dataclass(frozen=True)
    class Config(LookupTask.Config):
        """neighbours: numbers of neighbours to try on dev. The weight of a vote is 1 / distance."""

        neighbours: tuple[int, ...] = (1, 5, 20)

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.neighbours or min(self.neighbours) < 1:
                raise ValueError("neighbours must name at least one number, 1 or more each")

    def choices(self) -> Sequence[Any]:
        return self.config.neighbours

    def rows(self, train: Part, queries: Part, layer: int, choice: Any, seed: int) -> Rows:
        """(N, 2): whether correct, 1."""
        votes = min(choice, len(train.labels))
        model = library("sklearn.neighbors").KNeighborsClassifier(votes, weights="distance", metric="cosine", algorithm="brute")
        predicted = model.fit(train.vectors[layer], train.labels).predict(queries.vectors[layer])
        return np.column_stack([predicted == queries.labels, np.ones(len(predicted))]).astype(np.float64)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return (ratio(rows),)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """The accuracy of always giving the most frequent training label."""
        counts = np.bincount([item.target for item in fold.train])
        return {"majority": round(100 * float(np.mean([item.target == counts.argmax() for item in fold.test])), 2)}
