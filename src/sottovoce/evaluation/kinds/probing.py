"""Tasks solved by a probe on frozen features: the part that all of them share."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import torch

from sottovoce.data import Recordings
from sottovoce.evaluation.features.store import FeatureSet, Kind, Piece
from sottovoce.evaluation.heads.probe import Examples, Probe, Training, fit, sweep
from sottovoce.evaluation.kinds.learned import HELD_OUT, SPLITS, Fold, Item, LearnedTask, Rows, Unusable, summary
from sottovoce.evaluation.kinds.task import Bench, Outcome
from sottovoce.evaluation.subjects.subject import Subject


class ProbeTask(LearnedTask):
    """A head on the weighted sum of a frozen encoder's layers. A task's file defines what `LearnedTask` asks for.

    kind: whether the head sees frames or their mean (the same thing, and much cheaper, for a linear head with mean pooling).
    """

    kind: ClassVar[Kind] = "frames"

    def measure(self, subject: Subject, recordings: Recordings, bench: Bench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        bench.store.foresee(subject, [item.piece for items in splits.values() for item in items], self.kind, bench.say)
        training: Training = self.config.training
        tested: list[list[Rows]] = []
        groups: list[str] = []
        trials: list[dict[str, Any]] = []
        shares: list[list[float]] = []
        details: dict[str, Any] = {}
        clock = {"features": 0.0, "training": 0.0, "scoring": 0.0}
        for number, divided in enumerate(self.folds(splits)):
            self._check(divided, skipped)
            fold = self.prepare(divided)
            sets = [self._examples(subject, part, bench) for part in (fold.train, fold.dev, fold.test)]
            if number == 0:
                skipped += [row for each in sets for row in each.features.skipped]
            train, dev, test = sets
            for part, each in zip(SPLITS, sets, strict=True):
                if not len(each):
                    raise ValueError(f"none of the {part} recordings can be used for {self.name}; see what was skipped and why")
            clock["features"] += sum(each.features.seconds for each in sets)
            began = time.monotonic()

            def judge(probe: Probe, dev: Examples[Any] = dev) -> float:
                return self.metrics[0].sign * self.scores(self.rows(probe, dev, bench.device))[0]

            def one(seed: int, lr: float, train: Examples[Any] = train, dev: Examples[Any] = dev) -> tuple[Probe, Any]:
                dim = train.features.subject.dim
                return fit(lambda: self.head(dim), self.loss, judge, train, training, seed, lr, bench.device)

            probes, tried = sweep(one, training.lrs, bench.seeds)
            clock["training"] += time.monotonic() - began
            began = time.monotonic()
            tested.append([self.rows(self.ready(probe), test, bench.device) for probe in probes])
            clock["scoring"] += time.monotonic() - began
            groups += test.groups
            trials += [{**trial, "fold": number} for trial in tried]
            shares += [probe.sum.shares() for probe in probes]
            details = self.details(fold, tested[-1])
        rows = [np.concatenate([fold_rows[seed] for fold_rows in tested]) for seed in range(len(bench.seeds))]
        return Outcome(
            measures=self.measures(rows, groups),
            data=summary(splits),
            seconds=clock,
            trials=trials,
            layer_weights=shares,
            details=details,
            skipped=skipped,
            rows=rows,
            groups=groups,
        )

    @torch.inference_mode()
    def rows(self, probe: Probe, examples: Examples[Any], device: torch.device) -> Rows:
        """`count` of every item, in order."""
        features = examples.features
        found: dict[int, Any] = {}
        size = 512 if features.kind == "pooled" else 16
        order = sorted(range(len(examples)), key=lambda i: features.frames[i])
        for begin in range(0, len(order), size):
            items = order[begin : begin + size]
            batch = features.batch(items).to(device)
            found.update(zip(items, self.count(probe(batch), batch.lengths, [examples.targets[i] for i in items]), strict=True))
        return np.stack([found[i] for i in range(len(examples))])

    def _examples(self, subject: Subject, items: list[Item], bench: Bench) -> Examples[Any]:
        features = self.features(subject, [item.piece for item in items], bench)
        chosen = [items[i] for i in features.usable]
        return Examples(features, [item.target for item in chosen], [item.group for item in chosen])

    def features(self, subject: Subject, pieces: list[Piece], bench: Bench) -> FeatureSet:
        return bench.store.get(subject, pieces, self.kind)


__all__ = ["HELD_OUT", "Fold", "Item", "ProbeTask", "Rows", "Unusable", "summary"]
