"""Clustering: agreement of k-means clusters with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sottovoce.core.registry import TASKS
from sottovoce.evaluation.kinds.learned import Fold, Rows
from sottovoce.evaluation.kinds.lookup import LookupTask, Part
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.metrics import library

STARTS = 4  # of k-means; the best one counts


@TASKS.register("clustering")
class Clustering(LookupTask):
    """k-means on the test recordings, with as many clusters as labels: normalised mutual information with the labels, and purity.

    The mutual information is divided by the mean of the two entropies, so it is the V-measure (Rosenberg and Hirschberg 2007). Both numbers
    grow by chance with few recordings and many labels: `details.chance` has those of shuffled labels.
    """

    title = "Clustering"
    metrics = (Metric("v_measure"), Metric("purity"))
    seeded = True

    def rows(self, train: Part, queries: Part, layer: int, choice: Any, seed: int) -> Rows:
        """(N, 2): cluster and label."""
        count = len(set(queries.labels.tolist()))
        means = library("sklearn.cluster").KMeans(min(count, len(queries.labels)), n_init=STARTS, random_state=seed)
        return np.column_stack([means.fit_predict(queries.vectors[layer]), queries.labels]).astype(np.float64)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        """In percent, as in `unit_agreement`; a faster version, since intervals call it thousands of times."""
        clusters, labels = rows.astype(np.int64).T
        table = np.zeros((clusters.max() + 1, labels.max() + 1))
        np.add.at(table, (clusters, labels), 1 / len(rows))
        entropies = entropy(table.sum(1)) + entropy(table.sum(0))
        shared = entropies - entropy(table)
        return 100 * (2 * shared / entropies if entropies > 0 else 1.0), 100 * float(table.max(1).sum())

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        shuffled = rows[0].copy()
        np.random.default_rng(0).shuffle(shuffled[:, 1])
        return {
            "chance": dict(
                zip((metric.name for metric in self.metrics), np.round(self.scores(shuffled), 2).tolist(), strict=True)
            )
        }


def entropy(shares: NDArray[np.float64]) -> float:
    """Entropy in nats of shares that sum to 1."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
