"""How long a probe learns and at which learning rates: what a task file says, and what follows from it for a training set."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

L2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
LEAST, LOOKS = 200, 20  # updates of a trial that passes over the data; looks at the dev set in it
FILLED: dict[str, Any] = {  # what a schedule of steps has where it does not say otherwise
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
        """Share of the learning rates at update `step`, from 1."""
        return min(step / self.warmup, (self.warmup / step) ** 0.5) if self.warmup else 1.0


@dataclass(frozen=True)
class Training:
    """How a probe learns. There are three schedules.

    steps: with it, a trial has at most so many updates with Adam; `--schedule superb` sets the benchmark's number. Without it a linear
    head on the mean over time is solved to convergence (`heads.solver`), and any other head learns for a number of passes over its
    training set. A field that is not set has the schedule's value.

    lrs: learning rates tried. batch: utterances per update. evaluate_every: updates between two looks at the dev set. patience: looks
    without an improvement before a trial ends. clip: largest norm of the gradient. warmup: updates in which the rates rise, to fall
    afterwards with the inverse square root of the updates; 0: they stay as they are. layers_lr: learning rate of the layer weights;
    not set: that of the head where `steps` is set, as in SUPERB, whose 200,000 updates have the time that a short schedule lacks to find
    the layers that a task uses. standardize: every feature of every layer to zero mean and about unit variance over the training set
    first, which makes one range of learning rates fit all models (SUPERB does not).
    passes: over the training set, instead of `steps`. l2: strengths of the squared norm of the weights that the solver tries.
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
        """Whether nothing asks for updates with Adam."""
        return self.steps is None and self.passes is None

    def check_solvable(self) -> None:
        """ValueError when something is set that the solver does not use."""
        unused = ("lrs", "batch", "evaluate_every", "patience", "clip", "layers_lr", "warmup")
        if ignored := [name for name in unused if getattr(self, name) is not None]:
            raise ValueError(
                f"training.{ignored[0]} is for updates with Adam, and this head is solved to convergence; set training.steps or "
                "training.passes as well, or use --schedule superb"
            )

    def schedule(self, items: int, short: Training, superb: Training) -> Schedule:
        """For a training set of so many items. short: the task's values for passes over the data; superb: the benchmark's,
        whose number of updates is never exceeded."""
        settings = self
        if self.steps is None:
            if self.l2 is not None:
                raise ValueError("training.l2 is for heads that are solved to convergence, and this one is not linear")
            settings = filled(self, short)
            batch, passes, most = settings.batch, settings.passes, superb.steps
            assert batch is not None, "a task's short schedule says its batch"
            assert passes is not None, "and how often it passes over the data"
            assert most is not None, "and the benchmark's its updates"
            steps = min(most, max(LEAST, math.ceil(passes * math.ceil(items / batch))))
            settings = replace(
                settings, steps=steps, passes=None, evaluate_every=settings.evaluate_every or max(1, steps // LOOKS)
            )
        values = {spec.name: getattr(settings, spec.name) for spec in fields(Schedule)}
        return Schedule(**values)


def filled(training: Training, other: Training) -> Training:
    """`training`, with the values of `other` where it has none."""
    values = {spec.name: getattr(training, spec.name) for spec in fields(Training)}
    return replace(other, **{name: value for name, value in values.items() if value is not None})
