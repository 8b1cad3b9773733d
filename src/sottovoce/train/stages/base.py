"""What every kind of stage is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sottovoce.train.work import Work

if TYPE_CHECKING:
    from sottovoce.train.recipe import Recipe
    from sottovoce.train.run import Run
    from sottovoce.train.targets import Teachers


class Stage:
    """One step of a run. A subclass is one file: ``@STAGES.register("name")``, a nested frozen ``Config``, and `perform`.

    A stage that trains derives from `stages.train.Train` and says in a `Phase` what it adds to the training loop.

    gives: what it leaves that the next stage has to take, by name. takes: what the stage before it has to give.
    changes: whether it changes the student. meets_budget: whether the student costs what ``pruning.budget`` says after it.
    copies: how many more tensors of the student's size training holds, for the estimate of memory.
    """

    name: ClassVar[str]
    gives: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    changes: ClassVar[bool] = True
    meets_budget: ClassVar[bool] = False
    copies: ClassVar[int] = 0

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def __init__(self, config: Any, label: str, recipe: Recipe) -> None:
        """label: its name in the recipe."""
        self.label, self.config, self.recipe = label, config, recipe

    @property
    def updates(self) -> int:
        """How often it updates the student's weights."""
        return 0

    @property
    def batches(self) -> int:
        """How many batches that takes in each process."""
        return self.updates

    def check(self) -> None:
        """ValueError when the stage does not fit its recipe. Called when the recipe is read, so it opens nothing."""

    def scaled(self, updates: Mapping[str, int], factor: float) -> dict[str, Any]:
        """What to change in the recipe so that the stage takes ``updates[self.label]`` updates. Called for stages that train only.

        updates: of each stage that trains. factor: how much longer all stages together become.
        """
        return {"stages": {self.label: {"steps": updates[self.label]}}}

    def prepare(self, work: Work, teachers: Teachers) -> None:
        """Called for each stage before the first one begins. ValueError when this one can never do what is asked.

        work: what the run begins with.
        """

    def describe(self, work: Work) -> dict[str, Any]:
        """What ``--dry-run`` says about it, after `prepare`."""
        return {}

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        """Does it. Returns what the next stage begins with, and what the stage found, ready for JSON."""
        raise TypeError(f"{type(self).__name__} must define perform")
