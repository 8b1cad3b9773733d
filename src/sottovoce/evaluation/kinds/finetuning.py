"""Base class of tasks that fine-tune the encoder, in many languages at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sottovoce.data import DataConfig, Recording, Recordings, Skipped, scan
from sottovoce.evaluation.features.store import Piece
from sottovoce.evaluation.heads.probe import NotFinite, sweep
from sottovoce.evaluation.heads.tuning import SHORTEST, Tuned, Tuning, TuningSpeech, tune
from sottovoce.evaluation.kinds.learned import SPLITS, Fold, Item, LearnedTask, Rows
from sottovoce.evaluation.kinds.probing import check_finite, left_out, skip_too_long, tensors
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.subject import Subject

UNNAMED = "und"  # ISO 639 for an unknown language


class FineTuned(LearnedTask):
    """Trains a copy of the encoder together with the head (`heads.tuning`). Put it before the class of the task:

    ``class FineTunedX(FineTuned, X)``, where X is any `LearnedTask` on frames. Its Config has a `training` of type `Tuning`.

    One model serves all languages; the field ``language`` names them. A score is the unweighted mean over the languages of the test set
    (macro average); `details` has the score of each. A language without a dev split uses a tenth of its train split. For a subject
    without weights (log-mel, fbank) only the head is trained, and the record says so. The record counts the recordings that were used.
    """

    version = 1
    languages: list[str]

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        return [Piece(recording, 0.0, None)]

    def stratum(self, item: Item) -> str:
        return item.piece.recording.fields.get("language", "") or UNNAMED

    def prepare(self, fold: Fold) -> Fold:
        self.languages = sorted({self.stratum(item) for part in (fold.train, fold.dev, fold.test) for item in part})
        return super().prepare(fold)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        """Means over languages; the last column of the rows is the index of the language."""
        parts = [super(FineTuned, self).scores(rows[rows[:, -1] == place]) for place in np.unique(rows[:, -1])]
        return tuple(float(value) for value in np.mean(parts, axis=0))

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """Scores of each language, as means over seeds, and its number of test recordings."""
        languages: dict[str, Any] = {}
        for place in np.unique(rows[0][:, -1]):
            chosen = [each[each[:, -1] == place] for each in rows]
            values = np.mean([super(FineTuned, self).scores(each) for each in chosen], axis=0)
            named = {metric.name: round(float(value), 4) for metric, value in zip(self.metrics, values, strict=True)}
            languages[self.languages[int(place)]] = {**named, "items": len(chosen[0])}
        return {**super().details(fold, rows), "languages": languages}

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        training: Tuning = self.config.training
        (division,) = self.folds(splits)
        self._check(division, skipped)
        fold = self.prepare(division)
        train, dev, test = (self._speech(getattr(fold, split), split, skipped) for split in SPLITS)
        frames = [int(utterance.seconds * subject.frame_rate) for utterance in train.utterances]
        paths = [train.utterances[i].recording.path for i in self.too_long(train.targets, frames)]
        skipped += skip_too_long(self.name, paths, len(train), subject, bench.say)
        runs, begun = len(training.lrs) + len(bench.seeds) - 1, list[int]()
        learns = any(weight.is_floating_point() for weight in subject.encoder.parameters())
        began = time.monotonic()

        def judge(model: Tuned) -> float:
            return self.metrics[0].sign * self.scores(self.counted(model, dev, bench.device, skipped)[1])[0]

        def train_one(seed: int, lr: float) -> tuple[Tuned, Any]:
            def build() -> torch.nn.Module:
                return self.head(subject.dim)

            before = len(begun)
            begun.append(seed)

            def moved(done: int, total: int) -> None:
                bench.progress("training", before * total + done, runs * total)

            return tune(subject, build, self.loss, judge, train, training, seed, lr, bench.device, bench.say, moved)

        models, trials = sweep(train_one, training.lrs, bench.seeds)
        check_finite(self.name, subject, trials, bool(models), bench.say)
        middle = time.monotonic()
        tested = [self.counted(self.ready(model), test, bench.device, skipped) for model in models.values()]
        rows = [each for _, each in tested]
        groups = [test.groups[i] for i in tested[0][0]]
        return Outcome(
            measures=self.measures(rows, groups),
            data={"splits": {split: each.summary() for split, each in zip(SPLITS, (train, dev, test), strict=True)}},
            seconds={"training": middle - began, "scoring": time.monotonic() - middle},
            trials=trials,
            layer_weights=[shares for shares in (model.shares() for model in models.values()) if shares],
            details={
                **self.details(fold, rows),
                **left_out(trials, bench.seeds, list(models)),
                "encoder": "fine-tuned" if learns else "has no weights; the head alone learnt",
            },
            skipped=unique(skipped),
            rows=rows,
            groups=groups,
        )

    @torch.no_grad()
    def counted(
        self, model: Tuned, speech: TuningSpeech[Any], device: torch.device, skipped: list[Skipped]
    ) -> tuple[list[int], Rows]:
        """Indices of the readable utterances; and (N, K + 1) rows: the K numbers of `count` and the index of the language."""
        counts_by_place: dict[int, Any] = {}
        for batch, places in speech.once(self.config.training, skipped):
            outputs, frames = model(batch.to(device))
            if any(part.isnan().any() for part in tensors(outputs)):
                raise NotFinite("the head's output is not finite")
            counts = self.count(outputs, frames, [speech.targets[i] for i in places])
            counts_by_place.update(zip(places, counts, strict=True))
        if not counts_by_place:
            raise ValueError(f"none of the recordings to test {self.name} on can be read; see what was skipped and why")
        order = sorted(counts_by_place)
        languages = [self.languages.index(speech.languages[i]) for i in order]
        return order, np.column_stack([np.stack([counts_by_place[i] for i in order]), languages])

    def _speech(self, items: Sequence[Item], split: str, skipped: list[Skipped]) -> TuningSpeech[Any]:
        """The items that can be read and, for training, are short enough."""
        placed = [replace(item.piece.recording, id=str(i), group="") for i, item in enumerate(items)]
        scanned = scan(placed, DataConfig(min_seconds=SHORTEST, max_seconds=1e6))
        skipped += scanned.skipped
        limit = self.config.training.max_seconds if split == "train" else float("inf")
        usable = [utterance for utterance in scanned.utterances if utterance.seconds <= limit]
        skipped += [
            Skipped(path=utterance.recording.path, reason=f"longer than {limit:g} s")
            for utterance in scanned.utterances
            if utterance.seconds > limit
        ]
        if not usable:
            raise ValueError(f"every train recording is longer than {limit:g} s; raise training.max_seconds")
        chosen = [items[int(utterance.recording.id)] for utterance in usable]
        utterances = [replace(u, recording=replace(u.recording, id=str(i))) for i, u in enumerate(usable)]
        return TuningSpeech(
            utterances,
            [item.target for item in chosen],
            [item.group for item in chosen],
            [self.stratum(item) for item in chosen],
        )


def unique(skipped: Sequence[Skipped]) -> list[Skipped]:
    """One row per path: dev recordings are read at every evaluation."""
    return list({row["path"]: row for row in skipped}.values())
