"""Base classes of tasks with labelled recordings: those that score each recording, and those that train a head on an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sottovoce.data import Recording, Recordings, Skipped
from sottovoce.data.draw import draw
from sottovoce.data.recording import count_reasons
from sottovoce.evaluation.features.store import Piece
from sottovoce.evaluation.kinds.task import Measure, Metric, Task
from sottovoce.evaluation.statistics.bootstrap import interval

Rows = NDArray[np.float64]
Model = TypeVar("Model", bound=nn.Module)  # with a `head`
SPLITS = ("train", "dev", "test")
HELD_OUT = 0.1  # of train, where the data has no dev split


@dataclass(frozen=True)
class Item:
    """A piece of audio and its target. group: its speaker or speakers, for intervals."""

    piece: Piece
    target: Any
    group: str = ""


class Unusable(Exception):
    """Raised by `LabelledTask.target` for a recording that the task cannot use; the text is the reason."""


@dataclass(frozen=True)
class Fold:
    """One split of the items into train, dev and test."""

    train: list[Item]
    dev: list[Item]
    test: list[Item]


class LabelledTask(Task):
    """Scores single recordings against their labels; `compare` takes such tasks. A task's file defines `target` and `scores`.

    metrics: what `scores` returns. The first is the primary one.
    """

    metrics: tuple[Metric, ...]

    def target(self, recording: Recording) -> Any:
        """The reference of a recording, e.g. its transcript. Raises Unusable."""
        raise TypeError(f"{type(self).__name__} must define target")

    def scores(self, rows: Rows) -> tuple[float, ...]:
        """The value of each metric over the items of `rows`, (N, K)."""
        raise TypeError(f"{type(self).__name__} must define scores")

    def value(self, rows: Rows, number: int) -> float:
        """The value of one metric. A subclass may leave out the work for the others."""
        return self.scores(rows)[number]

    def arrange(self, recordings: Recordings) -> Recordings:
        """The recordings after changes that the task needs, e.g. other splits or added fields."""
        return recordings

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        """The parts of a recording that are used; each piece is an item."""
        return [Piece(recording, 0.0, getattr(self.config, "max_seconds", None))]

    def items(self, recordings: Recordings) -> tuple[dict[str, list[Item]], list[Skipped]]:
        """Items by split ("" for items without one), and the recordings that the task cannot use."""
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

    def tested(self, splits: dict[str, list[Item]], skipped: Sequence[Skipped]) -> list[Item]:
        """The items that a task without training tests on: the test split, or all of data without splits. ValueError if there are none."""
        chosen = splits["test"] if any(splits[split] for split in SPLITS) else splits[""]
        if not chosen:
            why = f" ({len(skipped)} skipped: {count_reasons(skipped)})" if skipped else ""
            raise ValueError(
                f"{self.name} finds no usable test recordings{why}; it reads {self.reads}, and a column 'split' where not all "
                "recordings are to be used"
            )
        return chosen

    def drawn(self, groups: Sequence[str]) -> Sequence[str] | Sequence[tuple[str, ...]]:
        """The groups that the bootstrap draws, from the group of each test item; see `interval`."""
        return groups

    def measures(self, rows: list[Rows], groups: Sequence[str]) -> list[Measure]:
        """Values and intervals from the test rows of each seed. All seeds share the bootstrap samples."""
        measures = []
        flat, (seeds, width) = np.concatenate(rows, axis=1), (len(rows), rows[0].shape[1])
        for i, metric in enumerate(self.metrics):
            per_seed = tuple(self.scores(part)[i] for part in rows)

            def mean(sample: Rows, i: int = i) -> float:
                parts = [sample[:, seed * width : (seed + 1) * width] for seed in range(seeds)]
                return float(np.mean([self.value(part, i) for part in parts]))

            low, high = interval(flat, mean, self.drawn(groups))
            measures.append(Measure(metric, float(np.mean(per_seed)), low, high, per_seed, len(flat)))
        return measures


class LearnedTask(LabelledTask):
    """Trains a head on the outputs of an encoder. A task's file defines `target`, `prepare`, `head`, `loss`, `count` and `scores`.

    The value of the first of the `metrics` on the dev set selects the model.
    """

    def prepare(self, fold: Fold) -> Fold:
        """Collects what it needs from the training targets (classes, an alphabet). Returns the fold with targets for `loss`."""
        return fold

    def head(self, dim: int) -> nn.Module:
        """(B, T, dim), (B,) lengths -> the outputs that `loss` and `count` take."""
        raise TypeError(f"{type(self).__name__} must define head")

    def loss(self, outputs: Any, lengths: Tensor, targets: list[Any]) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define loss")

    def count(self, outputs: Any, lengths: Tensor, targets: list[Any]) -> Rows:
        """(B, K) numbers per item, e.g. errors and words. `scores` computes the metrics from them."""
        raise TypeError(f"{type(self).__name__} must define count")

    def dev_score(self, rows: Rows) -> float:
        """The score that selects the model on the dev set, higher is better: the primary metric. NaN where it has no value."""
        return self.metrics[0].sign * self.scores(rows)[0]

    def too_long(self, targets: Sequence[Any], frames: Sequence[int]) -> list[int]:
        """Indices of the targets that are too long for their recordings, so that the loss ignores them. By default none."""
        return []

    def stratum(self, item: Item) -> str:
        """The part of the data, e.g. a language, that must have its own dev set."""
        return ""

    def folds(self, splits: dict[str, list[Item]]) -> Iterator[Fold]:
        """The folds to train and test on. Scores are over the test items of all folds together.

        By default one fold with the data's own splits. A stratum without a dev split uses a tenth of its train split, chosen by a hash.
        """
        train, dev = splits["train"], list(splits["dev"])
        with_dev = {self.stratum(item) for item in dev}
        held = {
            (stratum, name)
            for stratum in {self.stratum(item) for item in train} - with_dev
            for name in held_out({_source(item) for item in train if self.stratum(item) == stratum})
        }
        dev += [item for item in train if (self.stratum(item), _source(item)) in held]
        train = [item for item in train if (self.stratum(item), _source(item)) not in held]
        yield Fold(train, dev, splits["test"])

    def ready(self, model: Model) -> Model:
        """The model with its settings for the test set, where they differ from those for dev."""
        return model

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """Further facts for the record. fold: the last one; rows: its test rows, one array per seed."""
        return {}

    def check(self, recordings: Recordings) -> None:
        splits, skipped = self.items(self.arrange(recordings))
        for fold in self.folds(splits):
            self._check(fold, skipped)
            self.prepare(fold)

    def _check(self, fold: Fold, skipped: Sequence[Skipped]) -> None:
        for split in SPLITS:
            if not getattr(fold, split):
                why = f" ({len(skipped)} skipped: {count_reasons(skipped)})" if skipped else ""
                raise ValueError(
                    f"{self.name} finds no usable {split} recordings{why}; it reads {self.reads}, and a column 'split' that says "
                    "train, dev or test"
                )


def held_out(names: Iterable[str]) -> list[str]:
    """A tenth of the names, chosen by a hash; at least two if there are three or more."""
    order = sorted(names, key=draw)
    return order[: max(min(2, len(order) - 1), round(HELD_OUT * len(order)))]


def _source(item: Item) -> str:
    return item.piece.recording.group or item.piece.recording.id


def summary(splits: dict[str, list[Item]]) -> dict[str, Any]:
    """Recordings, hours and speakers of each split, for the record."""
    sizes = {}
    for split, items in splits.items():
        if not items and split not in SPLITS:
            continue
        lengths = [(item.piece.seconds, item.piece.recording.duration) for item in items]
        seconds = sum(min(limit or length or 0.0, length or limit or 0.0) for limit, length in lengths)
        speakers = len({speaker for item in items for speaker in item.group.split()})
        recordings = len({item.piece.recording.id for item in items})
        sizes[split or "unsplit"] = {"recordings": recordings, "hours": round(seconds / 3600, 4), "speakers": speakers or None}
    return {"splits": sizes}
