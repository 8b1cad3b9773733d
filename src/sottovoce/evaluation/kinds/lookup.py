"""Base class of tasks that compare features with labels and train nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.heads.solver import layers_first
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.learned import SPLITS, Fold, Item, LearnedTask, Rows, summary
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.subject import Subject

Vectors = NDArray[np.float32]  # (N, D) of one layer


@dataclass(frozen=True)
class Part:
    """One split. vectors: (L, N, D) means over time; labels: (N,) numbers; groups: (N,) speakers."""

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: list[str]


class LookupTask(LearnedTask):
    """Scores the mean over time of one layer against the labels of any column. The layer and one of `choices` are chosen on dev.

    Each feature dimension is standardised over the train split; only `knn` uses the labels of that split. A task's file defines `rows`,
    `scores` and `metrics`.
    """

    reads = "a label in a column, 'label' by default (setting 'field')"

    @dataclass(frozen=True)
    class Config:
        """field: the column with the labels. max_seconds: only this much of a recording is used, from its start. layers: those
        to try, from 0 (the input of the first layer); all by default. Not part of SUPERB."""

        field: str = "label"
        max_seconds: float | None = None
        layers: tuple[int, ...] | None = None

        def __post_init__(self) -> None:
            if self.layers is not None and (not self.layers or min(self.layers) < 0):
                raise ValueError("layers must name at least one layer, counted from 0")

    seeded: ClassVar[bool] = False  # whether `rows` depends on its seed

    def choices(self) -> Sequence[Any]:
        """Values of a setting to try on dev with each layer. By default there is no such setting."""
        return (None,)

    def rows(self, train: Part, queries: Part, layer: int, choice: Any, seed: int) -> Rows:
        """(N, K) numbers for each item of `queries`, a dev or test split. `scores` computes the metrics from them."""
        raise TypeError(f"{type(self).__name__} must define rows")

    def target(self, recording: Recording) -> str:
        return field(recording, self.config.field)

    def prepare(self, fold: Fold) -> Fold:
        """Numbers the labels. ValueError where the test split has fewer than two."""
        if len({item.target for item in fold.test}) < 2:
            raise ValueError(f"{self.name} needs at least two labels in the test split; it reads {self.reads}")
        number = {
            name: i for i, name in enumerate(sorted({item.target for part in (fold.train, fold.dev, fold.test) for item in part}))
        }

        def numbered(items: list[Item]) -> list[Item]:
            return [replace(item, target=number[item.target]) for item in items]

        return Fold(numbered(fold.train), numbered(fold.dev), numbered(fold.test))

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        (division,) = self.folds(splits)
        self._check(division, skipped)
        fold, clock = self.prepare(division), {"features": 0.0, "scoring": 0.0}
        layers = range(subject.layers) if self.config.layers is None else self.config.layers
        if max(layers) >= subject.layers:
            raise ValueError(f"{subject.name} has layers 0 to {subject.layers - 1}, and 'layers' names {max(layers)}")
        parts: dict[str, Part] = {}
        for split, items in zip(SPLITS, (fold.train, fold.dev, fold.test), strict=True):
            pieces = [item.piece for item in items]
            features = bench.store.get(subject, pieces, "pooled", partial(bench.progress, "features"))
            if len(features) < 2:
                raise ValueError(
                    f"fewer than two of the {split} recordings can be used for {self.name}; see what was skipped and why"
                )
            skipped += features.skipped
            clock["features"] += features.seconds
            usable = [items[i] for i in features.usable]
            vectors = layers_first(features).numpy()
            parts[split] = Part(vectors, np.array([item.target for item in usable]), [item.group for item in usable])
        began = time.monotonic()
        mean = parts["train"].vectors.mean(1, keepdims=True)
        deviation = parts["train"].vectors.std(1, keepdims=True)
        # as in `WeightedSum.fit`: does not amplify dimensions that hardly vary
        deviation = np.maximum(deviation, deviation.mean(2, keepdims=True) / 2) + 1e-6
        train, dev, test = (replace(part, vectors=(part.vectors - mean) / deviation) for part in parts.values())
        first = bench.seeds[0]
        dev_scores = {}
        for done, layer in enumerate(layers):
            for choice in self.choices():
                dev_scores[layer, choice] = self.dev_score(self.rows(train, dev, layer, choice, first))
            bench.progress("scoring", done, len(layers) + 1)
        if not any(np.isfinite(score) for score in dev_scores.values()):
            raise ValueError(
                f"{self.name} has no value on the dev split; it needs two recordings of one label and one of another there"
            )
        layer, choice = max(dev_scores, key=lambda each: -np.inf if np.isnan(dev_scores[each]) else dev_scores[each])
        tested = [self.rows(train, test, layer, choice, seed) for seed in (bench.seeds if self.seeded else bench.seeds[:1])]
        measures = self.measures(tested, test.groups)
        clock["scoring"] += time.monotonic() - began
        return Outcome(
            measures=measures,
            data=summary(splits),
            seconds=clock,
            details={
                **self.details(fold, tested),
                "layer": layer,
                "dev_by_layer": [round(self.metrics[0].sign * dev_scores[each, choice], 4) for each in layers],
                "labels": len(set(test.labels.tolist())),
                **({} if choice is None else {"choice": choice}),
            },
            skipped=skipped,
            rows=tested,
            groups=test.groups,
        )
