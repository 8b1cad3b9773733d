"""Base class of speaker verification tasks: trials and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sottovoce.data import Recording, Recordings
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.store import Piece
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.learned import Fold, Item, LearnedTask, Rows, Unusable
from sottovoce.evaluation.kinds.sessions import check_session, session_of
from sottovoce.evaluation.kinds.task import Measure, Metric
from sottovoce.evaluation.statistics.bootstrap import interval
from sottovoce.evaluation.statistics.metrics import equal_error_rate, min_dcf

MAX_RECORDINGS = 2000  # most recordings to make trials from: two million pairs
PARTS = {"dev": "train", "test": "test"}  # of VoxCeleb1
SAMPLES = 300  # of the bootstrap; each scores many thousand trials twice


class VerificationTask(LearnedTask):
    """Decides whether two recordings are of the same speaker, who is not in the training data. A task's file defines the embedding.

    A trial's score is the cosine between two embeddings. minDCF: target prior 0.05. Rows are (N, 1 + D): the item's number and its
    embedding of length 1. The bootstrap draws speakers, if there are enough; a trial counts as often as the product of the counts of
    its speakers.
    """

    reads = "the speaker in a column 'speaker'"
    metrics = (Metric("eer", better="lower"), Metric("min_dcf", unit="", better="lower"))

    @dataclass(frozen=True)
    class Config:
        """max_seconds: length of training crops; crops: the most per utterance (``None``: all); min_seconds: shorter training utterances
        and crops are left out. test_seconds: how much of a dev or test recording is used (``None``: all).
        session: a pattern that matches the recording session in a file's name (LibriSpeech: ``^[^-]*-[^-]*``); target trials are then
        of two sessions. trials: the most target and the most non-target trials, if the data has no trial list.
        """

        max_seconds: float = 8.0
        min_seconds: float = 2.0
        crops: int | None = None
        test_seconds: float | None = None
        session: str = ""
        trials: int = 20_000

        def __post_init__(self) -> None:
            check_session(self.session)
            if not 0 < self.min_seconds <= self.max_seconds:
                raise ValueError("min_seconds must be above 0 and not above max_seconds")
            if self.trials < 1 or (self.crops is not None and self.crops < 1):
                raise ValueError("trials and crops must be at least 1")

    def arrange(self, recordings: Recordings) -> Recordings:
        """Sets the group of each recording to its speaker, so that a dev set taken from train has other speakers. Where a corpus has
        parts of disjoint speakers (VoxCeleb1), they become the splits."""
        self.listed = recordings.trials
        arranged = Recordings(skipped=recordings.skipped, trials=recordings.trials)
        for item in recordings:
            split = PARTS.get(item.fields.get("part", ""), item.fields.get("split", ""))
            arranged.append(replace(item, group=item.fields.get("speaker", ""), fields={**item.fields, "split": split}))
        return arranged

    def target(self, recording: Recording) -> str:
        speaker = field(recording, "speaker")
        seconds = recording.duration
        if recording.fields.get("split") == "train" and seconds is not None and seconds < self.config.min_seconds:
            raise Unusable(f"shorter than {self.config.min_seconds:g} s")
        return speaker

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        if split != "train":
            return [Piece(recording, 0.0, self.config.test_seconds)]
        size, seconds = self.config.max_seconds, recording.duration
        if seconds is None or seconds <= size:
            return [Piece(recording, 0.0, size)]
        count = int(seconds // size) + (seconds % size >= self.config.min_seconds)
        return [Piece(recording, i * size, size) for i in range(min(count, self.config.crops or count))]

    def prepare(self, fold: Fold) -> Fold:
        """Numbers the training speakers, makes the trials, and drops dev and test recordings that are in no trial.

        The target of a dev or test item is its number; test numbers follow dev numbers.
        """
        speakers = {name: i for i, name in enumerate(sorted({item.target for item in fold.train}))}
        shared = sorted(speakers.keys() & {item.target for item in (*fold.dev, *fold.test)})
        if shared:
            raise ValueError(
                f"{self.name} tests on strangers, but {len(shared)} speakers are in train and in dev or test, e.g. {shared[0]}; "
                "split the data by speakers"
            )
        if len(speakers) < 2:
            raise ValueError(f"{self.name} needs at least two speakers in the train split; it reads {self.reads}")
        self.speakers = len(speakers)
        dev, test = _crops_to_utterances(fold.dev), fold.test
        self.trials = {"dev": self._trials(dev, "dev", []), "test": self._trials(test, "test", self.listed)}
        self.first_test = len(dev)
        self.trials["test"].pairs[:] += self.first_test

        def numbered(items: list[Item], first: int, trials: Trials) -> list[Item]:
            used = set(trials.pairs.ravel().tolist())
            return [replace(item, target=i) for i, item in enumerate(items, first) if i in used]

        train = [replace(item, target=speakers[item.target]) for item in fold.train]
        return Fold(train, numbered(dev, 0, self.trials["dev"]), numbered(test, self.first_test, self.trials["test"]))

    def _trials(self, items: list[Item], split: str, listed: Sequence[tuple[str, str, bool]]) -> Trials:
        if listed:
            place = {item.piece.recording.id: i for i, item in enumerate(items)}
            usable = [(place[a], place[b], same) for a, b, same in listed if a in place and b in place]
            if not usable:
                raise ValueError(
                    f"the data lists {len(listed)} trials, but none between two of its {split} recordings: check the ids"
                )
            trials = Trials(np.array([(a, b) for a, b, _ in usable]), np.array([same for _, _, same in usable]))
        else:
            trials = make_trials([item.piece.recording for item in items], self.config.session, self.config.trials)
        if trials.same.all() or not trials.same.any():
            missing = "non-target" if len(trials.same) and trials.same.all() else "target"
            raise ValueError(
                f"{self.name} finds no {missing} trials in the {split} split: it needs two speakers, and one with two recordings"
                + (" of different sessions (see 'session')" if self.config.session else "")
            )
        return trials

    def scored(self, rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
        """(N, 2) score and target of each trial whose recordings are readable; (N, 2) numbers of these recordings."""
        numbers = rows[:, 0].astype(int)
        trials = self.trials["test" if numbers.max() >= self.first_test else "dev"]
        place = np.full(max(int(trials.pairs.max()), int(numbers.max())) + 1, -1)
        place[numbers] = np.arange(len(numbers))
        rows_of_pairs = place[trials.pairs]
        readable = (rows_of_pairs >= 0).all(1)
        left, right = rows_of_pairs[readable].T
        scores = np.einsum("nd,nd->n", rows[left, 1:], rows[right, 1:])
        return np.column_stack([scores, trials.same[readable]]), trials.pairs[readable]

    def scores(self, rows: Rows) -> tuple[float, ...]:
        trials, _ = self.scored(rows)
        return equal_error_rate(*trials.T), min_dcf(*trials.T)

    def measures(self, rows: list[Rows], groups: Sequence[str]) -> list[Measure]:
        """As `ProbeTask.measures`, over trials."""
        speaker = dict(zip(rows[0][:, 0].astype(int).tolist(), groups, strict=True))
        trials = [self.scored(part)[0] for part in rows]
        # a target trial names its one speaker once
        people = [tuple({speaker[a]: None, speaker[b]: None}) for a, b in self.scored(rows[0])[1].tolist()]
        flat = np.column_stack([*(part[:, 0] for part in trials), trials[0][:, 1]])
        measures = []
        for metric, score in zip(self.metrics, (equal_error_rate, min_dcf), strict=True):
            per_seed = tuple(score(part[:, 0], part[:, 1]) for part in trials)

            def mean(sample: Rows, score: Any = score) -> float:
                if sample[:, -1].all() or not sample[:, -1].any():
                    return float("nan")
                return float(np.mean([score(sample[:, seed], sample[:, -1]) for seed in range(len(trials))]))

            low, high = interval(flat, mean, people, samples=SAMPLES)
            measures.append(Measure(metric, float(np.mean(per_seed)), low, high, per_seed, len(flat)))
        return measures

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        same = self.scored(rows[0])[0][:, 1]
        counts = {"target": int(same.sum()), "non_target": int(len(same) - same.sum())}
        return {"trials": {**counts, "from": "the data" if self.listed else "made"}}


@dataclass(frozen=True)
class Trials:
    """pairs: (N, 2) indices of recordings. same: (N,) whether both are of one speaker."""

    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]


def make_trials(recordings: Sequence[Recording], session: str, most: int) -> Trials:
    """Makes up to `most` target and up to `most` non-target trials; the order of the recordings does not matter.

    Target trials are of two sessions, if the pattern `session` matches both file names. Non-target trials are of two speakers of the same
    sex (fields ``sex`` or ``gender``), if both are known. If there are more than `most`, each speaker, or pair of speakers, gives equally
    many. At most 2000 recordings, chosen by a hash, are used.
    """
    chosen = np.array(
        sorted(range(len(recordings)), key=lambda i: (draw(recordings[i].id), recordings[i].id))[:MAX_RECORDINGS], dtype=int
    )
    items = [recordings[i] for i in chosen]
    sessions = _codes([session_of(item, session) or "" for item in items])
    sexes = _codes([(item.fields.get("sex") or item.fields.get("gender") or "").strip().lower()[:1] for item in items])
    speakers = _codes([item.fields["speaker"] for item in items])
    a, b = np.triu_indices(len(items), 1)
    same = speakers[a] == speakers[b]
    target = same & ((sessions[a] != sessions[b]) | (sessions[a] < 0))
    other = ~same & ((sexes[a] == sexes[b]) | (sexes[a] < 0) | (sexes[b] < 0))
    low, high = np.minimum(speakers[a], speakers[b]), np.maximum(speakers[a], speakers[b])
    parts = []
    for kind in (target, other):
        places = np.flatnonzero(kind)
        parts.append(places[_evenly(low[places] * (len(items) + 1) + high[places], most)])
    trials = np.concatenate(parts)
    return Trials(chosen[np.column_stack([a, b])[trials]], np.repeat([True, False], [len(part) for part in parts]))


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each distinct name; -1 for an empty one."""
    codes = {name: i for i, name in enumerate(sorted(set(names) - {""}))}
    return np.array([codes.get(name, -1) for name in names], dtype=np.int64)


def _evenly(groups: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Indices of up to `most` items, spread evenly over the groups."""
    order = np.random.default_rng(0).permutation(len(groups))
    by_group = order[np.argsort(groups[order], kind="stable")]
    _, starts, counts = np.unique(groups[by_group], return_index=True, return_counts=True)
    rank = np.arange(len(groups)) - np.repeat(starts, counts)  # index of an item within its group
    return np.sort(by_group[np.argsort(rank, kind="stable")[:most]])


def _crops_to_utterances(items: list[Item]) -> list[Item]:
    """One crop per utterance, for dev items taken from train: two crops of an utterance are no trial."""
    return list({item.piece.recording.id: item for item in reversed(items)}.values())[::-1]
