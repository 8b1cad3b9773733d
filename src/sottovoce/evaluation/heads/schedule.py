"""Training schedules of probes: the settings in a task file, and the updates that follow for a training set."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

L2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MIN_UPDATES, DEV_EVALUATIONS = 200, 20  # of a schedule of passes: the fewest updates, and the dev evaluations
FILLED: dict[str, Any] = {  # defaults of a schedule of steps
    "lrs": (1e-4,),
    "batch": 32,
    "evaluate_every": 2_000,
    "patience": 10,
    "clip": 1.0,
    "standardize": False,
    "warmup": 0,
}


@dataclass(frozen=True)
class Schedule:
    """Updates with Adam. Fields as in `Training`."""

    lrs: tuple[float, ...]
    steps: int
    batch: int = 32
    evaluate_every: int = 2_000
    patience: int = 10
    clip: float = 1.0
    layers_lr: float | None = None
    standardize: bool = False
    warmup: int = 0

    def rate(self, step: int) -> float:
        """Factor of the learning rates at update `step`, from 1."""
        return min(step / self.warmup, (self.warmup / step) ** 0.5) if self.warmup else 1.0


@dataclass(frozen=True)
class Training:
    """How a probe learns. There are three schedules.

    steps: if set, the most updates of a trial with Adam; `--schedule superb` sets the benchmark's number. If not, a linear head on the
    mean over time is solved to convergence (`heads.solver`), and any other head is trained for a number of passes over its training
    set. Fields that are not set have the schedule's defaults.

    lrs: learning rates to try. batch: utterances per update. evaluate_every: updates between two dev evaluations. patience: dev
    evaluations without an improvement before a trial ends. clip: largest norm of the gradient. warmup: updates in which the rates rise;
    then they fall with the inverse square root of the updates; 0: constant rates. layers_lr: learning rate of the layer weights; with
    `steps` by default that of the head, as in SUPERB; short schedules need a higher one to find the layers that a task uses.
    standardize: give each feature of each layer zero mean and about unit variance over the training set, so that one range of
    learning rates fits all models (SUPERB does not).
    passes: over the training set, instead of `steps`. l2: strengths of L2 regularisation for the solver to try.
    """

    lrs: tuple[float, ...] | None = None
    steps: int | None = None
    batch: int | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    clip: float | None = None
    layers_lr: float | None = None
    standardize: bool | None = None
    warmup: int | None = None
    passes: float | None = None
    l2: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            if self.passes is not None or self.l2 is not None:
                raise ValueError("steps says how long a trial is, so passes and l2 have no place beside it")
            for name, value in FILLED.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        for name in ("lrs", "l2"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) <= 0):
                raise ValueError(f"{name} must name at least one {'learning rate' if name == 'lrs' else 'strength'} above 0")
        counts = [getattr(self, name) for name in ("steps", "batch", "evaluate_every", "patience")]
        if any(count is not None and count < 1 for count in counts) or (self.warmup or 0) < 0:
            raise ValueError("steps, batch, evaluate_every and patience must be at least 1, warmup at least 0")
        if self.passes is not None and self.passes <= 0:
            raise ValueError("passes must be above 0")

    @property
    def solvable(self) -> bool:
        """Whether neither steps nor passes are set."""
        return self.steps is None and self.passes is None

    def check_solvable(self) -> None:
        """ValueError when a field is set that the solver does not use."""
        unused = ("lrs", "batch", "evaluate_every", "patience", "clip", "layers_lr", "warmup")
        if ignored := [name for name in unused if getattr(self, name) is not None]:
            raise ValueError(
                f"training.{ignored[0]} is for updates with Adam, and this head is solved to convergence; set training.steps or "
                "training.passes as well, or use --schedule superb"
            )

    def schedule(self, items: int, short: Training, superb: Training) -> Schedule:
        """The updates for a training set of `items`. short: the task's defaults for passes over the data; superb: the benchmark's
        schedule, which limits the number of updates."""
        settings = self
        if self.steps is None:
            if self.l2 is not None:
                raise ValueError("training.l2 is for heads that are solved to convergence, and this one is not linear")
            settings = filled(self, short)
            batch, passes, most = settings.batch, settings.passes, superb.steps
            assert batch is not None, "a task's short schedule says its batch"
            assert passes is not None, "and how often it passes over the data"
            assert most is not None, "and the benchmark's its updates"
            steps = min(most, max(MIN_UPDATES, math.ceil(passes * math.ceil(items / batch))))
            settings = replace(
                settings, steps=steps, passes=None, evaluate_every=settings.evaluate_every or max(1, steps // DEV_EVALUATIONS)
            )
        values = {spec.name: getattr(settings, spec.name) for spec in fields(Schedule)}
        return Schedule(**values)


def filled(training: Training, other: Training) -> Training:
    """`training`, with the values of `other` for fields that are not set."""
    values = {spec.name: getattr(training, spec.name) for spec in fields(Training)}
    return replace(other, **{name: value for name, value in values.items() if value is not None})
