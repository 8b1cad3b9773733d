"""Tasks solved by a probe on frozen features: the part that all of them share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sottovoce.data import Recording, Recordings, Skipped
from sottovoce.data.recording import count_reasons
from sottovoce.probing.bootstrap import interval
from sottovoce.probing.features import FeatureSet, Kind, Piece
from sottovoce.probing.probe import Examples, Probe, Training, fit, sweep
from sottovoce.probing.subject import Subject
from sottovoce.tasks.base import Bench, Measure, Metric, Outcome, Task

Rows = NDArray[np.float64]
SPLITS = ("train", "dev", "test")
HELD_OUT = 0.1  # of train, where the data has no dev split


@dataclass(frozen=True)
class Item:
    """A piece of audio with what is to be said of it. group: whom it belongs to, for intervals."""

    piece: Piece
    target: Any
    group: str = ""


class Unusable(Exception):
    """Raised by `ProbeTask.target` for a recording that the task cannot use; the text is the reason."""


@dataclass(frozen=True)
class Fold:
    """One division of the items."""

    train: list[Item]
    dev: list[Item]
    test: list[Item]


class ProbeTask(Task):
    """A head on the weighted sum of layers. A task's file defines `target`, `prepare`, `head`, `loss`, `count` and `scores`.

    kind: whether the head sees frames or their mean (the same thing, and much cheaper, for a linear head with mean pooling).
    metrics: what `scores` gives, the primary one first; the sweep maximises it on the dev set.
    """

    kind: ClassVar[Kind] = "frames"
    metrics: tuple[Metric, ...]

    def target(self, recording: Recording) -> Any:
        """What is to be said of a recording. Raises Unusable."""
        raise TypeError(f"{type(self).__name__} must define target")

    def prepare(self, fold: Fold) -> Fold:
        """Learns what it needs of the training targets (classes, an alphabet) and gives the fold with targets as `loss` wants them."""
        return fold

    def head(self, dim: int) -> nn.Module:
        """(B, T, dim), (B,) lengths -> what `loss` and `count` read."""
        raise TypeError(f"{type(self).__name__} must define head")

    def loss(self, outputs: Any, lengths: Tensor, targets: list[Any]) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define loss")

    def count(self, outputs: Any, lengths: Tensor, targets: list[Any]) -> Rows:
        """(B, K) numbers of each item that `scores` is computed from, e.g. errors and words."""
        raise TypeError(f"{type(self).__name__} must define count")

    def scores(self, rows: Rows) -> tuple[float, ...]:
        """The metrics' values over the items of `rows` (N, K), in the order of `metrics`."""
        raise TypeError(f"{type(self).__name__} must define scores")

    def arrange(self, recordings: Recordings) -> Recordings:
        """The recordings, perhaps split in another way or completed, before anything is read from them."""
        return recordings

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        """The audio of a recording that is used; several pieces are several items."""
        return [Piece(recording, 0.0, getattr(self.config, "max_seconds", None))]

    def folds(self, splits: dict[str, list[Item]]) -> Iterator[Fold]:
        """The divisions to train and test on, one after another; their test items count together.

        Here: the data's own splits; without a dev split a tenth of train serves, chosen by a hash.
        """
        train, dev = splits["train"], splits["dev"]
        if not dev:
            names = sorted({item.piece.recording.group or item.piece.recording.id for item in train}, key=draw)
            held = set(names[: max(min(2, len(names) - 1), round(HELD_OUT * len(names)))])
            parts: tuple[list[Item], list[Item]] = ([], [])
            for item in train:
                parts[(item.piece.recording.group or item.piece.recording.id) in held].append(item)
            train, dev = parts
        yield Fold(train, dev, splits["test"])

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """More to say of the last fold's test rows, one array for each seed."""
        return {}

    def measure(self, subject: Subject, recordings: Recordings, bench: Bench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
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

            probes, tried = sweep(one, training, bench.seeds)
            clock["training"] += time.monotonic() - began
            began = time.monotonic()
            tested.append([self.rows(probe, test, bench.device) for probe in probes])
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
        )

    def items(self, recordings: Recordings) -> tuple[dict[str, list[Item]], list[Skipped]]:
        """Items by split ("" for those that name none), and what the task cannot use."""
        splits: dict[str, list[Item]] = {split: [] for split in (*SPLITS, "")}
        skipped = list(recordings.skipped)
        for recording in recordings:
            split = recording.fields.get("split", "")
            if split not in splits:
                continue
            try:
                target = self.target(recording)
            except Unusable as reason:
                skipped.append(Skipped(path=recording.path, reason=str(reason)))
                continue
            group = recording.fields.get("speaker", "")
            splits[split] += [Item(piece, target, group) for piece in self.pieces(recording, split)]
        return splits, skipped

    def _check(self, fold: Fold, skipped: Sequence[Skipped]) -> None:
        for split in SPLITS:
            if not getattr(fold, split):
                why = f" ({len(skipped)} skipped: {count_reasons(skipped)})" if skipped else ""
                raise ValueError(
                    f"{self.name} finds no usable {split} recordings{why}; it reads {self.reads}, and a column 'split' that says "
                    "train, dev or test"
                )

    def measures(self, rows: list[Rows], groups: Sequence[str]) -> list[Measure]:
        """Values and intervals from the test rows of every seed; one resampling serves all seeds."""
        made = []
        flat, (seeds, width) = np.concatenate(rows, axis=1), (len(rows), rows[0].shape[1])
        for i, metric in enumerate(self.metrics):
            per_seed = tuple(self.scores(part)[i] for part in rows)

            def mean(sample: Rows, i: int = i) -> float:
                parts = [sample[:, seed * width : (seed + 1) * width] for seed in range(seeds)]
                return float(np.mean([self.scores(part)[i] for part in parts]))

            low, high = interval(flat, mean, groups)
            made.append(Measure(metric, float(np.mean(per_seed)), low, high, per_seed, len(flat)))
        return made

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


def summary(splits: dict[str, list[Item]]) -> dict[str, Any]:
    """Recordings, hours and speakers of every split, as the ledger keeps them."""
    made = {}
    for split, items in splits.items():
        if not items and split not in SPLITS:
            continue
        known = [(item.piece.seconds, item.piece.recording.duration) for item in items]
        seconds = sum(min(limit or length or 0.0, length or limit or 0.0) for limit, length in known)
        speakers = len({speaker for item in items for speaker in item.group.split()})
        recordings = len({item.piece.recording.id for item in items})
        made[split or "unsplit"] = {"recordings": recordings, "hours": round(seconds / 3600, 4), "speakers": speakers or None}
    return {"splits": made}


def draw(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).digest(), "big") / 2**48


__all__ = ["HELD_OUT", "Fold", "Item", "ProbeTask", "Rows", "Unusable", "draw", "summary"]
