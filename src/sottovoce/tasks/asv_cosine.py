"""Speaker verification without speaker labels: cosines of the encoder's own features."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sottovoce.core.registry import TASKS
from sottovoce.data import Recordings
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.store import FeatureSet
from sottovoce.evaluation.kinds.learned import SPLITS, Fold, Item, Rows, summary
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.kinds.verification import VerificationTask
from sottovoce.evaluation.statistics.metrics import library
from sottovoce.evaluation.subjects.subject import Subject


@TASKS.register("asv-cosine")
class CosineVerification(VerificationTask):
    """Speaker verification without any speaker label: the cosine between two recordings' statistics of one layer; EER.

    The vectors are mean and standard deviation over time of one layer, standardised by training crops and whitened by their principal
    components, without use of speaker labels. Layer and number of components (0: no whitening) are chosen on dev. `asv` shows what a
    probe can learn from labelled speakers; this task shows how well the features themselves separate speakers, as `qbe` does for words.
    Not part of SUPERB.
    """

    title = "Speaker verification without labels"

    @dataclass(frozen=True)
    class Config(VerificationTask.Config):
        """components: numbers of principal components to try on dev; 0: standardised, not whitened. crops_used: training crops to
        compute them from, chosen by a hash."""

        components: tuple[int, ...] = (0, 20, 100)
        crops_used: int = 4000

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.components or min(self.components) < 0 or self.crops_used < 2:
                raise ValueError("components must name at least one number, 0 or more each, and crops_used must be at least 2")

    def prepare(self, fold: Fold) -> Fold:
        prepared = super().prepare(fold)

        def place(item: Item) -> tuple[float, str]:
            name = f"{item.piece.recording.id} {item.piece.start:g}"
            return draw(name), name

        return Fold(sorted(prepared.train, key=place)[: self.config.crops_used], prepared.dev, prepared.test)

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        (division,) = self.folds(splits)
        self._check(division, skipped)
        fold = self.prepare(division)
        parts = dict(zip(SPLITS, (fold.train, fold.dev, fold.test), strict=True))
        bench.store.foresee(subject, [item.piece for part in parts.values() for item in part], "frames", bench.say)
        clock = {"features": 0.0, "scoring": 0.0}
        pooled: dict[str, NDArray[np.float32]] = {}
        usable: dict[str, list[Item]] = {}
        for split, items in parts.items():
            features = bench.store.get(subject, [item.piece for item in items], "frames", partial(bench.progress, "features"))
            usable[split] = [items[i] for i in features.usable]
            if len(features) < 2:
                raise ValueError(
                    f"fewer than two of the {split} recordings can be used for {self.name}; see what was skipped and why"
                )
            skipped += features.skipped
            began = time.monotonic()
            pooled[split] = statistics(features)
            clock["features"] += features.seconds
            clock["scoring"] += time.monotonic() - began
        began = time.monotonic()
        numbers = {split: np.array([item.target for item in items], dtype=np.float64) for split, items in usable.items()}
        backs = [Whitening(pooled["train"][:, layer], max(self.config.components)) for layer in range(subject.layers)]

        def rows(split: str, layer: int, components: int) -> Rows:
            return np.column_stack([numbers[split], backs[layer](pooled[split][:, layer], components)])

        dev = {
            (layer, components): self.scores(rows("dev", layer, components))[0]
            for layer in range(subject.layers)
            for components in self.config.components
        }
        best = min(dev, key=dev.__getitem__)
        tested = [rows("test", *best)]
        measures = self.measures(tested, [item.group for item in usable["test"]])
        clock["scoring"] += time.monotonic() - began
        return Outcome(
            measures=measures,
            data=summary(splits),
            seconds=clock,
            details={
                **self.details(fold, tested),
                "layer": best[0],
                "components": min(best[1], backs[best[0]].most),
                "dev_by_layer": [round(dev[layer, best[1]], 4) for layer in range(subject.layers)],
            },
            skipped=skipped,
        )


class Whitening:
    """Standardises and whitens (N, K) vectors by statistics of `vectors` and up to `components` of their principal components.

    A call takes vectors and the number of components (0: standardises only) and returns vectors of length 1. most: available components,
    fewer than `components` if there are few vectors or dimensions.
    """

    def __init__(self, vectors: NDArray[np.float32], components: int) -> None:
        self.mean = vectors.mean(axis=0, dtype=np.float64)
        self.deviation = np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-9)
        self.most = min(components, vectors.shape[1], len(vectors) - 1)
        self.principal: Any = library("sklearn.decomposition").PCA(self.most, whiten=True, svd_solver="full")
        self.principal.fit(self.standardised(vectors))

    def standardised(self, vectors: NDArray[np.float32]) -> Rows:
        return (vectors - self.mean) / self.deviation

    def __call__(self, vectors: NDArray[np.float32], components: int) -> Rows:
        whitened = self.standardised(vectors)
        if components:
            whitened = self.principal.transform(whitened)[:, :components]
        return np.asarray(whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-9))


def statistics(features: FeatureSet) -> NDArray[np.float32]:
    """(N, L, 2 D): mean and standard deviation over time of each item."""
    frames = features.each(range(len(features)))
    return torch.stack([torch.cat([each.mean(0), each.std(0, correction=0)], dim=-1) for each in frames]).numpy()
