"""Speech quality: scores of recordings, and how they agree with human ratings and with a quality model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import tensor
from torch.nn.utils.rnn import pad_sequence

from sottovoce.core import ledger
from sottovoce.core.registry import TASKS, suggestion
from sottovoce.core.types import SAMPLE_RATE, Batch
from sottovoce.data import Recording, Recordings, Skipped
from sottovoce.evaluation.features.pieces import Piece, decoded
from sottovoce.evaluation.kinds.learned import Item, LabelledTask, Rows, Unusable, summary
from sottovoce.evaluation.kinds.task import Metric, Outcome, Workbench
from sottovoce.evaluation.statistics.metrics import pearson, spearman
from sottovoce.evaluation.subjects.rater import Rater
from sottovoce.evaluation.subjects.subject import Subject

FOLDER = "scores"
SHOWN = 40  # recordings whose scores are printed and are in the record
BATCH_SECONDS = 30.0  # of audio that is scored at once
MEAN = Metric("score", "")
HUMAN = (Metric("pearson", ""), Metric("spearman", ""))  # with the ratings
REFERENCE = (
    Metric("agreement", ""),
    Metric("rank_agreement", ""),
    Metric("distance", "", "lower"),
)  # with the first model of --vs


@TASKS.register("quality-score")
class QualityScore(LabelledTask):
    """Scores of recordings by a student's score head or by a quality model; correlation with human ratings where the data has them.

    Nothing is trained. With a reference (``--vs``), also the agreement with its scores: Pearson, Spearman, and mean absolute difference.
    """

    title = "Quality scores"
    reads = "audio, and human ratings, if there are any, in a column 'score' (setting 'field')"
    needs = "scores"
    metrics: tuple[Metric, ...] = (*HUMAN, *REFERENCE, MEAN)

    @dataclass(frozen=True)
    class Config:
        """field: the column with the ratings; ratings of another range than the scores' are fine. Without the column, there is no
        correlation, unless another one than 'score' was asked for. score: which of a model's scores counts; by default its last one
        (DNSMOS: overall)."""

        field: str = "score"
        score: str = ""

    def target(self, recording: Recording) -> float:
        """The rating; NaN if there is none."""
        text = recording.fields.get(self.config.field, "").strip()
        try:
            value = float(text) if text else float("nan")
        except ValueError:
            raise Unusable(f"{self.config.field} is not a number") from None
        if text and not np.isfinite(value):
            raise Unusable(f"{self.config.field} is not a number")
        return value

    def check(self, recordings: Recordings) -> None:
        splits, skipped = self.items(self.arrange(recordings))
        items = self.tested(splits, skipped)
        if self.config.field != "score" and all(np.isnan(item.target) for item in items):
            columns = {name for recording in recordings for name in recording.fields}
            raise ValueError(f"no recording has a rating in column '{self.config.field}'{suggestion(self.config.field, columns)}")

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        items = self.tested(splits, skipped)
        reference = bench.reference if bench.reference is not subject else None
        began = time.monotonic()
        pieces = [item.piece for item in items]
        chosen = self.which(subject)
        own = self.kept(subject, bench)
        skipped += own.fill(subject.rater, pieces, lambda done, total: bench.progress("scoring", done, total))
        theirs = None if reference is None else self.kept(reference, bench)
        if theirs is not None and reference is not None:
            theirs.fill(reference.rater, pieces, lambda done, total: bench.progress(f"scoring by {reference.name}", done, total))
        used = [item for item in items if item.piece.key in own and (theirs is None or item.piece.key in theirs)]
        if not used:
            raise ValueError(f"none of the recordings can be used for {self.name}; see what was skipped and why")

        def row(item: Item) -> tuple[float, float, float]:
            other = float("nan")
            if theirs is not None and reference is not None:
                other = theirs[item.piece.key][self.which(reference)]
            return own[item.piece.key][chosen], item.target, other

        rows: Rows = np.array([row(item) for item in used], dtype=np.float64)
        rated = int(np.isfinite(rows[:, 1]).sum())
        self.metrics = (*(HUMAN if rated else ()), *(() if reference is None else REFERENCE), MEAN)
        groups = [item.group for item in used]
        details: dict[str, Any] = {
            "rater": {
                "score": subject.rater.names[chosen],
                "names": list(subject.rater.names),
                "params": subject.rater.params,
                "fingerprint": subject.rater.fingerprint,
            },
            "rated": rated,
            "recordings": {item.piece.recording.id: [round(score, 3) for score in own[item.piece.key]] for item in used[:SHOWN]},
            **({} if own.path is None else {"scores": own.path.name}),
        }
        if reference is not None:
            details["reference"] = {"name": reference.name, "fingerprint": reference.rater.fingerprint}
        return Outcome(
            measures=self.measures([rows], groups),
            data=summary({"test": used}),
            seconds={"scoring": time.monotonic() - began},
            details=details,
            skipped=skipped,
            rows=[rows],
            groups=groups,
        )

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return tuple(self.value(rows, number) for number in range(len(self.metrics)))

    def value(self, rows: Rows, number: int) -> float:
        """rows: (N, 3), own score, rating and the reference's score, NaN where there is none."""
        own, human, other = rows.T
        rated, name = np.isfinite(human), self.metrics[number].name
        if name in ("pearson", "spearman"):
            return (pearson if name == "pearson" else spearman)(own[rated], human[rated])
        if name in ("agreement", "rank_agreement"):
            return (pearson if name == "agreement" else spearman)(own, other)
        return float(own.mean() if name == "score" else np.abs(own - other).mean())

    def which(self, subject: Subject) -> int:
        """The place of the score that counts. ValueError if the model has no such score."""
        names = subject.rater.names
        if not self.config.score or (len(names) == 1 and subject.judge is not None):
            return len(names) - 1
        if self.config.score not in names:
            raise ValueError(f"{subject.name} has no score '{self.config.score}'{suggestion(self.config.score, names)}")
        return names.index(self.config.score)

    def kept(self, subject: Subject, bench: Workbench) -> KeptScores:
        """The scores that the folder of results has of a model already."""
        if bench.out is None:
            return KeptScores(None, subject.rater.names)
        name = re.sub(r"[^\w.-]+", "-", subject.name)
        return KeptScores(bench.out / FOLDER / f"{name}-{subject.rater.fingerprint[:8]}.jsonl", subject.rater.names)

    @staticmethod
    def lines(record: Mapping[str, Any], folder: Path) -> list[str]:
        """All measures and the scores of single recordings, as text."""

        def text(name: str, measure: Mapping[str, Any]) -> str:
            if measure["value"] is None:
                return f"{name} has no value"
            return f"{name} {measure['value']:.3f}" + (
                f" ({measure['low']:.3f} to {measure['high']:.3f})" if measure["low"] is not None else ""
            )

        details = record["details"]
        names, listed = details["rater"]["names"], details["recordings"]
        measures = ", ".join(text(name, measure) for name, measure in record["measures"].items())
        head = f"{record['model']['name']}: {measures}" + (f"; {', '.join(names)}:" if len(names) > 1 else "")
        width = max(len(name) for name in listed)
        shown = [f"  {name:<{width}}  {'  '.join(f'{score:.2f}' for score in scores)}" for name, scores in listed.items()]
        count = record["data"]["splits"]["test"]["recordings"]
        if count > len(listed):
            shown = shown[:5]
            where = f"; all are in {folder / FOLDER / details['scores']}" if "scores" in details else ""
            shown.append(f"  ... and {count - len(shown):,} more{where}")
        return [head, *shown]


class KeptScores(Mapping[str, Sequence[float]]):
    """Scores of recordings by one model, by the key of the audio, in a ``.jsonl`` file (``None``: in memory only), so that nothing is
    scored twice. names: of the scores."""

    def __init__(self, path: Path | None, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(names)
        self.rows: dict[str, list[float]] = {}
        for row in [] if path is None else ledger.read_all(path):
            self.rows[row["key"]] = [float(row["scores"][name]) for name in self.names]

    def __getitem__(self, key: str) -> Sequence[float]:
        return self.rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, rater: Rater, pieces: Sequence[Piece], progress: Any) -> list[Skipped]:
        """Adds the scores that are missing. Returns the recordings that cannot be read or scored. progress: called with pieces done and in
        all."""
        skipped: list[Skipped] = []
        todo = [piece for piece in pieces if piece.key not in self.rows]
        batch: list[tuple[Piece, Any]] = []
        order = sorted(todo, key=lambda piece: (piece.length or 0.0, piece.recording.id))
        for done, (piece, wave) in enumerate(decoded(order)):
            if isinstance(wave, str):
                skipped.append(Skipped(path=piece.recording.path, reason=wave))
                continue
            if batch and len(wave) * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
                skipped += self._score(rater, batch)
                batch = []
                progress(done, len(todo))
            batch.append((piece, wave))
        if batch:
            skipped += self._score(rater, batch)
        return skipped

    def _score(self, rater: Rater, batch: Sequence[tuple[Piece, Any]]) -> list[Skipped]:
        waves = [wave for _, wave in batch]
        lengths = tensor([len(wave) for wave in waves])
        scores = rater.rate(Batch(pad_sequence(waves, batch_first=True), lengths)).tolist()
        fresh, skipped = [], []
        for (piece, _), row in zip(batch, scores, strict=True):
            if not np.isfinite(row).all():
                skipped.append(Skipped(path=piece.recording.path, reason="the model gives scores that are not finite"))
                continue
            self.rows[piece.key] = row
            named = dict(zip(self.names, row, strict=True))  # not rounded, so that kept scores are those of a fresh measurement
            fresh.append(json.dumps({"recording": piece.recording.id, "scores": named, "key": piece.key}, ensure_ascii=True))
        if self.path is not None and fresh:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            ledger.append(self.path, fresh)
        return skipped
