"""The base class of stages."""

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

    A stage that trains derives from `stages.train.Train`; its `Phase` says what it adds to the training loop.

    gives: names of things that the next stage must take. takes: names of things that the stage before it must give.
    changes: whether it changes the student. meets_budget: whether the student meets ``pruning.budget`` after it.
    copies: further copies of the student's tensors that training holds, for the estimate of memory.
    """

    name: ClassVar[str]
    gives: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    changes: ClassVar[bool] = True
    meets_budget: bool = False
    copies: ClassVar[int] = 0

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def __init__(self, config: Any, label: str, recipe: Recipe) -> None:
        """label: the stage's name in the recipe."""
        self.label, self.config, self.recipe = label, config, recipe

    @property
    def updates(self) -> int:
        """The number of updates of the student's weights."""
        return 0

    @property
    def batches(self) -> int:
        """The number of batches in each process."""
        return self.updates

    def check(self) -> None:
        """ValueError if the stage does not fit its recipe. Called when the recipe is read, so it opens no files."""

    def scaled(self, updates: Mapping[str, int], factor: float) -> dict[str, Any]:
        """The changes of the recipe that give the stage ``updates[self.label]`` updates. Called only for stages that train.

        updates: of each stage that trains. factor: new updates of all stages together, divided by old ones.
        """
        return {"stages": {self.label: {"steps": updates[self.label]}}}

    def prepare(self, work: Work, teachers: Teachers) -> None:
        """Called for each stage before the first one begins, with the work that the run starts from. ValueError if it cannot succeed."""

    def describe(self, work: Work) -> dict[str, Any]:
        """Facts for ``--dry-run``, after `prepare`."""
        return {}

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        """Runs the stage. Returns the work for the next stage, and a report ready for JSON."""
        raise TypeError(f"{type(self).__name__} must define perform")
