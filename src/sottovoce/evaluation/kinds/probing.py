"""Base class of tasks that train a probe on frozen features."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sottovoce.data import Recordings, Skipped
from sottovoce.evaluation.features.store import FeatureSet, Kind, Piece
from sottovoce.evaluation.heads.probe import Examples, NotFinite, Probe, fit, sweep
from sottovoce.evaluation.heads.schedule import L2, Schedule, Training
from sottovoce.evaluation.heads.solver import solve
from sottovoce.evaluation.kinds.learned import HELD_OUT, SPLITS, Fold, Item, LearnedTask, Rows, Unusable, summary
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.subject import Subject


class ProbeTask(LearnedTask):
    """Trains a head on the weighted sum of a frozen encoder's layers. A task's file defines what `LearnedTask` lists.

    kind: whether the head reads frames or their mean over time. For a `MeanPool` both give the same result; the mean is much cheaper.
    superb: the schedule of `--schedule superb`. short: the defaults of a schedule of passes over the data.
    by_steps_since: the first version whose records still count if their schedule had a number of steps.
    """

    kind: ClassVar[Kind] = "frames"
    superb: ClassVar[Training]
    short: ClassVar[Training] = Training(lrs=(1e-3, 3e-3), passes=20, batch=8, patience=6, layers_lr=0.03, standardize=True)
    by_steps_since: ClassVar[int] = 1

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.solved:
            config.training.check_solvable()

    @property
    def solved(self) -> bool:
        """Whether the head is solved to convergence."""
        return self.kind == "pooled" and bool(self.config.training.solvable)

    @classmethod
    def version_of(cls, version: int, config: Mapping[str, Any]) -> int:
        steps = (config.get("training") or {}).get("steps")
        return cls.version if steps is not None and version >= cls.by_steps_since else version

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        pieces = [item.piece for items in splits.values() for item in items]
        bench.store.foresee(subject, pieces, self.kind, bench.say)
        tested: list[dict[int, Rows]] = []  # per fold, by seed
        groups: list[str] = []
        trials: list[dict[str, Any]] = []
        shares: list[list[float]] = []
        details: dict[str, Any] = {}
        clock = {"features": 0.0, "training": 0.0, "scoring": 0.0}
        folds = list(self.folds(splits)) or [Fold([], [], [])]
        for number, division in enumerate(folds):
            self._check(division, skipped)
            fold = self.prepare(division)
            train, dev, test = sets = self._sets(subject, fold, bench)
            if number == 0:
                skipped += [row for each in sets for row in each.features.skipped]
            for part, each in zip(SPLITS, sets, strict=True):
                if not len(each):
                    raise ValueError(f"none of the {part} recordings can be used for {self.name}; see what was skipped and why")
            skipped += self.untrainable(subject, train, bench)
            clock["features"] += sum(each.features.seconds for each in sets)
            began = time.monotonic()
            progress = FoldProgress(bench, number, len(folds))
            probes, tried, schedule = (self._solve if self.solved else self._sweep)(subject, train, dev, bench, progress)
            clock["training"] += time.monotonic() - began
            check_finite(self.name, subject, tried, bool(probes), bench.say)
            began = time.monotonic()
            tested.append({seed: self.rows(self.ready(probe), test, bench.device) for seed, probe in probes.items()})
            clock["scoring"] += time.monotonic() - began
            groups += test.groups
            trials += [{**trial, "fold": number} for trial in tried]
            shares += [probe.sum.shares() for probe in probes.values()]
            details = {**self.details(fold, list(tested[-1].values())), "schedule": schedule}
        seeds = [seed for seed in tested[0] if all(seed in each for each in tested)]
        if not seeds:
            raise ValueError(f"no seed of {self.name} gives a finite score in every fold, so there is no result")
        details |= left_out(trials, [] if self.solved else bench.seeds, seeds)
        rows = [np.concatenate([each[seed] for each in tested]) for seed in seeds]
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

    def _solve(
        self, subject: Subject, train: Examples[Any], dev: Examples[Any], bench: Workbench, progress: FoldProgress
    ) -> tuple[dict[int, Probe], list[dict[str, Any]], dict[str, Any]]:
        """The probe, which serves all seeds; its trials; and its schedule."""
        training: Training = self.config.training
        strengths, first, dim = training.l2 or L2, bench.seeds[0], subject.dim
        bench.say(f"{self.name}: the head is linear, so it is solved to convergence, with the strength of L2 chosen on dev")
        probe, trials = solve(
            lambda: self.head(dim),
            self.loss,
            lambda probe: self.dev_score(self.rows(probe, dev, bench.device)),
            train,
            strengths,
            bool(training.standardize),
            first,
            bench.device,
            progress,
        )
        schedule = {"name": "solved", "l2": list(strengths), "standardize": bool(training.standardize)}
        return ({} if probe is None else {first: probe}), trials, schedule

    def _sweep(
        self, subject: Subject, train: Examples[Any], dev: Examples[Any], bench: Workbench, progress: FoldProgress
    ) -> tuple[dict[int, Probe], list[dict[str, Any]], dict[str, Any]]:
        """A probe for each seed whose training stayed finite; the trials; and their schedule."""
        schedule = self.schedule(len(train), bench)
        runs = len(schedule.lrs) + len(bench.seeds) - 1
        begun = 0

        def judge(probe: Probe) -> float:
            return self.dev_score(self.rows(probe, dev, bench.device))

        def train_one(seed: int, lr: float) -> tuple[Probe, Any]:
            nonlocal begun
            before, begun = begun, begun + 1
            build, dim = self.head, train.features.subject.dim

            def moved(done: int, total: int) -> None:
                progress(before * total + done, runs * total)

            return fit(lambda: build(dim), self.loss, judge, train, schedule, seed, lr, bench.device, moved)

        probes, trials = sweep(train_one, schedule.lrs, bench.seeds)
        plan = {
            "name": schedule_name(self.config.training, self.superb),
            **dataclasses.asdict(schedule),
            "lrs": list(schedule.lrs),
        }
        return probes, trials, {**plan, "passes": round(schedule.steps * schedule.batch / len(train), 2)}

    def schedule(self, items: int, bench: Workbench) -> Schedule:
        """The schedule for this many training items. Prints the number of updates unless the user set it."""
        training: Training = self.config.training
        schedule = training.schedule(items, self.short, self.superb)
        if training.steps is None:
            bench.say(
                f"{self.name}: {schedule.steps:,} updates of {schedule.batch} for each learning rate, "
                f"{schedule.steps * schedule.batch / items:.3g} passes over {items:,} training items; the benchmark's schedule is "
                f"{self.superb.steps:,} of {self.superb.batch}: --schedule superb"
            )
        return schedule

    @torch.inference_mode()
    def rows(self, probe: Probe, examples: Examples[Any], device: torch.device) -> Rows:
        """(N, K): `count` of each item, in order. Raises NotFinite when an output is NaN."""
        features = examples.features
        counts: dict[int, Any] = {}
        size = 512 if features.kind == "pooled" else 16
        order = sorted(range(len(examples)), key=lambda i: features.frames[i])
        for begin in range(0, len(order), size):
            items = order[begin : begin + size]
            batch = features.batch(items).to(device)
            outputs = probe(batch)
            if any(part.isnan().any() for part in tensors(outputs)):
                raise NotFinite("the head's output is not finite")
            counts.update(zip(items, self.count(outputs, batch.lengths, [examples.targets[i] for i in items]), strict=True))
        return np.stack([counts[i] for i in range(len(examples))])

    def untrainable(self, subject: Subject, train: Examples[Any], bench: Workbench) -> list[Skipped]:
        """The training recordings that the loss ignores; prints their number. ValueError when there are no others."""
        places = self.too_long(train.targets, train.features.frames)
        return skip_too_long(self.name, [train.features.pieces[i].recording.path for i in places], len(train), subject, bench.say)

    def _sets(self, subject: Subject, fold: Fold, bench: Workbench) -> list[Examples[Any]]:
        """Train, dev and test, with their features."""
        parts = (fold.train, fold.dev, fold.test)
        total, before, examples = sum(map(len, parts)), 0, []
        for part in parts:

            def moved(done: int, todo: int, before: int = before, count: int = len(part)) -> None:
                bench.progress("features", before + count - todo + done, total)

            features = self.features(subject, [item.piece for item in part], bench, moved)
            chosen = [part[i] for i in features.usable]
            examples.append(Examples(features, [item.target for item in chosen], [item.group for item in chosen]))
            before += len(part)
        return examples

    def features(
        self, subject: Subject, pieces: list[Piece], bench: Workbench, progress: Callable[[int, int], None] | None = None
    ) -> FeatureSet:
        return bench.store.get(subject, pieces, self.kind, progress)


class FoldProgress:
    """Reports to `bench` how far the training of all folds is."""

    def __init__(self, bench: Workbench, fold: int, folds: int) -> None:
        self.bench, self.fold, self.folds = bench, fold, folds

    def __call__(self, done: float, total: float) -> None:
        self.bench.progress("training", self.fold * total + done, self.folds * total)


def skip_too_long(task: str, paths: Sequence[str], total: int, subject: Subject, say: Callable[[str], None]) -> list[Skipped]:
    """The training recordings with more tokens than frames; prints their number. ValueError when there are no others."""
    if not paths:
        return []
    if len(paths) == total:
        raise ValueError(
            f"all {total} train transcripts have more tokens than their recordings have frames, so {task} can learn nothing; "
            "check the text column, and whether the recordings are whole"
        )
    say(f"{subject.name}  {task}  {len(paths)} of {total} train transcripts have more tokens than frames and teach nothing")
    return [Skipped(path=path, reason="more tokens than frames") for path in paths]


def check_finite(
    task: str, subject: Subject, trials: Sequence[Mapping[str, Any]], any_model: bool, say: Callable[[str], None]
) -> None:
    """Prints which trials are left out, and why. ValueError when no model is left."""
    reasons = {named(trial): trial["left_out"] for trial in trials if "left_out" in trial}
    if not any_model:
        listed = "; ".join(f"{trial}: {reason}" for trial, reason in reasons.items())
        raise ValueError(f"no trial of {task} gives a finite score ({listed}), so there is no result")
    for trial, reason in reasons.items():
        say(f"{subject.name}  {task}  left out: {trial}, since {reason}")


def left_out(trials: Sequence[Mapping[str, Any]], seeds: Sequence[int], used: Sequence[int]) -> dict[str, Any]:
    """For the record: the number of trials that were left out, and the seeds without a model. Empty if there are none."""
    count = sum("left_out" in trial for trial in trials)
    return {"left_out": {"trials": count, "of": len(trials), "seeds": sorted(set(seeds) - set(used))}} if count else {}


def schedule_name(training: Training, superb: Training) -> str:
    """The name of the schedule in a record."""
    return "superb" if training == superb else "passes" if training.steps is None else "steps"


def named(trial: Mapping[str, Any]) -> str:
    """A short name for a trial."""
    return f"seed {trial['seed']}, " + (f"lr {trial['lr']:g}" if "lr" in trial else f"L2 {trial['l2']:g}")


def tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors of numbers in nested lists, tuples and dataclasses."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, (list, tuple)):
        for part in outputs:
            yield from tensors(part)
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        for spec in dataclasses.fields(outputs):
            yield from tensors(getattr(outputs, spec.name))


__all__ = ["HELD_OUT", "Fold", "Item", "ProbeTask", "Rows", "Unusable", "summary"]
