"""Tasks that learn from labelled recordings: what they share, whether the encoder stays as it is or learns too."""

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


class LearnedTask(Task):
    """A head that is trained on what an encoder says. A task's file defines `target`, `prepare`, `head`, `loss`, `count` and `scores`.

    metrics: what `scores` gives, the primary one first; training is judged by it, on the dev set.
    """

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

    def dev_score(self, rows: Rows) -> float:
        """What training is judged by on the dev set, higher is better: the primary metric. NaN where that has no value."""
        return self.metrics[0].sign * self.scores(rows)[0]

    def too_long(self, targets: Sequence[Any], frames: Sequence[int]) -> list[int]:
        """Places of the targets that do not fit into their recordings' frames, so that the loss passes them over. By default none."""
        return []

    def arrange(self, recordings: Recordings) -> Recordings:
        """The recordings, perhaps split in another way or completed, before anything is read from them."""
        return recordings

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        """The audio of a recording that is used; several pieces are several items."""
        return [Piece(recording, 0.0, getattr(self.config, "max_seconds", None))]

    def stratum(self, item: Item) -> str:
        """What an item belongs to that needs a dev set of its own, a language for instance."""
        return ""

    def folds(self, splits: dict[str, list[Item]]) -> Iterator[Fold]:
        """The divisions to train and test on, one after another; their test items count together.

        Here: the data's own splits; where a stratum has no dev split a tenth of its train serves, chosen by a hash.
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
        """The model as the test set meets it, where that is not how the dev set did."""
        return model

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """More to say of the last fold's test rows, one array for each seed."""
        return {}

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

    def drawn(self, groups: Sequence[str]) -> Sequence[str] | Sequence[tuple[str, ...]]:
        """What the interval draws again, from whom each test item belongs to; see `interval`."""
        return groups

    def measures(self, rows: list[Rows], groups: Sequence[str]) -> list[Measure]:
        """Values and intervals from the test rows of every seed; one resampling serves all seeds."""
        measures = []
        flat, (seeds, width) = np.concatenate(rows, axis=1), (len(rows), rows[0].shape[1])
        for i, metric in enumerate(self.metrics):
            per_seed = tuple(self.scores(part)[i] for part in rows)

            def mean(sample: Rows, i: int = i) -> float:
                parts = [sample[:, seed * width : (seed + 1) * width] for seed in range(seeds)]
                return float(np.mean([self.scores(part)[i] for part in parts]))

            low, high = interval(flat, mean, self.drawn(groups))
            measures.append(Measure(metric, float(np.mean(per_seed)), low, high, per_seed, len(flat)))
        return measures


def held_out(names: Iterable[str]) -> list[str]:
    """A tenth of the names, but at least two where there are three, chosen by a hash."""
    order = sorted(names, key=draw)
    return order[: max(min(2, len(order) - 1), round(HELD_OUT * len(order)))]


def _source(item: Item) -> str:
    return item.piece.recording.group or item.piece.recording.id


def summary(splits: dict[str, list[Item]]) -> dict[str, Any]:
    """Recordings, hours and speakers of every split, as the ledger keeps them."""
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
