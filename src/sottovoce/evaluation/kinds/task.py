"""What every evaluation task is, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sottovoce.data import Recordings, Skipped
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.subjects.subject import Subject


@dataclass(frozen=True)
class Metric:
    """A number that a task reports. unit: "%" or ""; better: which way is good."""

    name: str
    unit: str = "%"
    better: Literal["higher", "lower"] = "higher"

    @property
    def sign(self) -> int:
        return 1 if self.better == "higher" else -1


def leading(metrics: tuple[Metric, ...], name: str) -> tuple[Metric, ...]:
    """The metrics with the one of this name first, which makes it the primary one."""
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
    """What a task found. measures: the first is the task's primary one. trials: every learning rate tried (see `probing.probe`).

    layer_weights: for each seed the share of every layer. data: sizes of the splits. skipped: recordings that could not be used.
    seconds: by part (features, training, scoring). rows, groups: where answers are to single recordings, what the scores are computed
    from, one array for each seed, and whom each row belongs to; they are compared and not recorded.
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
        """The part of a ledger entry that a task decides."""
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


def quiet(text: str) -> None:
    """Says nothing."""


def unmoved(stage: str, done: float, total: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Workbench:
    """What tasks work with.

    seeds: of heads and batches. reference: the teacher, for tasks that compare. say: told what a reader should know. progress: told how
    far the task is, as (stage, done, to do), e.g. ("features", 12, 300). Both must be picklable.
    """

    store: FeatureStore
    seeds: tuple[int, ...] = (1, 2, 3)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    reference: Subject | None = None
    say: Callable[[str], None] = quiet
    progress: Callable[[str, float, float], None] = unmoved


class Task:
    """Measures a model. A subclass is one file: ``@TASKS.register("name")``, a nested frozen ``Config``, `title` and `measure`.

    version: how the task scores. A change after which old numbers must not stand beside new ones raises it; records of another version
    no longer count as measured.
    The Config's defaults are the benchmark's values. reads: the fields of the recordings that it needs, in words, for messages.
    compares: whether it measures against `Workbench.reference`, so that measuring the reference itself says nothing.
    held_out: whether it can measure a student beside its teacher on audio without labels, with a method ``run(student, teacher, batches)``
    that returns plain data. A stage of kind evaluate gives it the run's held-out recordings where it is given no data.
    timed: whether it wants to know how long every recording is; files whose header knows it are then looked at before it begins.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[str] = ""
    compares: ClassVar[bool] = False
    held_out: ClassVar[bool] = False
    timed: ClassVar[bool] = True
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def version_of(cls, version: int, config: Mapping[str, Any]) -> int:
        """The version by which a record of `version` with these settings (as plain data) counts: a change of the scoring that leaves
        some settings as they were leaves their records as they were, too."""
        return version

    def check(self, recordings: Recordings) -> None:
        """ValueError as `measure` raises it, as far as it can be known without a model and without reading audio. By default nothing."""

    def files(self) -> Sequence[str]:
        """Files besides the recordings that decide what is measured."""
        return ()

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        """Scores `subject` on `recordings`. ValueError, with the way out, when they lack what the task reads."""
        raise TypeError(f"{type(self).__name__} must define measure")

    def settings(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return asdict(self.config)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
