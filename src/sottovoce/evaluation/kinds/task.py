"""Base class of evaluation tasks, and the results that they return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sottovoce.data import Recordings, Skipped
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.subjects.subject import Ability, Subject


@dataclass(frozen=True)
class Metric:
    """A number that a task reports. unit: "%" or ""; better: whether higher or lower values are."""

    name: str
    unit: str = "%"
    better: Literal["higher", "lower"] = "higher"

    @property
    def sign(self) -> int:
        return 1 if self.better == "higher" else -1


def leading(metrics: tuple[Metric, ...], name: str) -> tuple[Metric, ...]:
    """The metrics with the one of this name first: the primary metric."""
    return tuple(sorted(metrics, key=lambda metric: metric.name != name))


@dataclass(frozen=True)
class Measure:
    """A metric's value: the mean over seeds, its 95 % bootstrap interval (``None`` where there is none), and each seed's own."""

    metric: Metric
    value: float
    low: float | None
    high: float | None
    per_seed: tuple[float, ...]
    items: int

    def record(self) -> dict[str, Any]:
        values = {key: _rounded(getattr(self, key)) for key in ("value", "low", "high")}
        per_seed = [_rounded(value) for value in self.per_seed]
        return {**values, "per_seed": per_seed, "unit": self.metric.unit, "better": self.metric.better, "items": self.items}


@dataclass(frozen=True)
class Outcome:
    """The result of a task on a model. measures: the primary one first. trials: records of all trials (see `heads.probe.Trial`).

    layer_weights: the weight of each layer, per seed. data: sizes of the splits. skipped: recordings that could not be used.
    seconds: time per part (features, training, scoring). rows, groups: of tasks that score single recordings, the numbers per
    recording, one array per seed, and the group of each row; `compare` needs them, and records do not hold them.
    """

    measures: list[Measure]
    data: Mapping[str, Any]
    seconds: Mapping[str, float]
    trials: list[dict[str, Any]] = field(default_factory=list)
    layer_weights: list[list[float]] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()
    rows: Sequence[NDArray[np.float64]] = ()
    groups: Sequence[str] = ()

    def record(self) -> dict[str, Any]:
        """The part of a record that the task provides."""
        return {
            "data": {**self.data, "skipped": len(self.skipped)},
            "measures": {measure.metric.name: measure.record() for measure in self.measures},
            "trials": self.trials,
            "layer_weights": [[round(share, 4) for share in shares] for shares in self.layer_weights],
            "details": dict(self.details),
            "cost": {
                "seconds": round(sum(self.seconds.values()), 2),
                **{f"{part}_seconds": round(value, 2) for part, value in self.seconds.items()},
            },
        }


def no_message(text: str) -> None:
    """Drops a message."""


def no_progress(stage: str, done: float, total: float) -> None:
    """Drops a progress report."""


@dataclass(frozen=True)
class Workbench:
    """What a task needs besides the model and the recordings.

    seeds: of heads and batches. reference: the teacher, for tasks that compare. say: called with messages. progress: called
    with (stage, done, total), e.g. ("features", 12, 300). Both must be picklable. out: the folder of results, for what a task keeps
    beside its records; ``None`` keeps nothing.
    """

    store: FeatureStore
    seeds: tuple[int, ...] = (1, 2, 3)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    reference: Subject | None = None
    say: Callable[[str], None] = no_message
    progress: Callable[[str, float, float], None] = no_progress
    out: Path | None = None


class Task:
    """Measures a model. A subclass is one file: ``@TASKS.register("name")``, a nested frozen ``Config``, `title` and `measure`.

    version: raise it when scores change so that old and new ones must not be compared. Records of another version are measured again.
    The Config's defaults are the benchmark's values. reads: the fields that it needs, as text for messages.
    compares: whether it measures against `Workbench.reference`; the reference itself is then not measured.
    needs: what a model must have: "features"; "host", the whole model, decoder or head included (`Subject.host`); "scores" of whole
    recordings (`Subject.rater`).
    held_out: whether it has a method ``run(student, teacher, batches)`` that needs no labels and returns plain data. The stage `evaluate`
    runs it on the run's held-out recordings if no data is given.
    timed: whether it needs the durations of all recordings; missing ones are then read from the files' headers first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[str] = ""
    compares: ClassVar[bool] = False
    needs: ClassVar[Ability] = "features"
    held_out: ClassVar[bool] = False
    timed: ClassVar[bool] = True
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def version_of(cls, version: int, config: Mapping[str, Any]) -> int:
        """The version that a record of `version` with these settings (as plain data) counts as. Override it where a new version
        scores some settings as before, so that their records remain valid."""
        return version

    def check(self, recordings: Recordings) -> None:
        """Raises the ValueErrors of `measure` that need neither a model nor audio. By default none."""

    def files(self) -> Sequence[str]:
        """Further files that the result depends on, e.g. a lexicon."""
        return ()

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        """Scores `subject` on `recordings`. ValueError when they lack what the task reads."""
        raise TypeError(f"{type(self).__name__} must define measure")

    @staticmethod
    def lines(record: Mapping[str, Any], folder: Path) -> list[str]:
        """Further lines for people on a result. folder: of the results. By default none."""
        return []

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return asdict(self.config)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
