"""The cut: removes the units that the gates have closed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from sottovoce.core.registry import STAGES
from sottovoce.pruning import GatedEncoder, combine_cuts, meet_budget, open_units
from sottovoce.pruning.factors import merge
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.stages.prune import GATES, set_budget
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work, cost_of


@STAGES.register("cut")
class Cut(Stage):
    """Removes the units whose gates are closed, after moving all gates by as little as meets the budget exactly."""

    takes: ClassVar[tuple[str, ...]] = (GATES,)
    meets_budget = True

    @dataclass(frozen=True)
    class Config:
        """No settings; ``pruning.budget`` says how much to keep."""

    def prepare(self, work: Work, teachers: Teachers) -> None:
        set_budget(work, self.recipe.pruning, teachers.config)

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        pruning = self.recipe.pruning
        gated = work.gated
        if gated is None:  # the run was interrupted after the stage before
            gated = GatedEncoder(work.encoder, pruning.units, pruning.gates, torch.Generator())
            gated.gates.load_state_dict(work.gates)
        assert work.budget is not None
        report = meet_budget(gated.gates, work.budget.of(gated.encoder.config, gated.plan))
        values = gated.gates.evaluate()
        encoder = merge(gated.cut(values))  # ranks at which two factors do not pay
        run.say(report.text)
        if report.warning:
            run.say(report.warning)
        results = {
            "budget": {**asdict(report), "text": report.text},
            "cost": cost_of(encoder),
            "kept": combine_cuts(work.kept, open_units(gated.plan, values)),
        }
        return Work(encoder, objectives=work.objectives, budget=work.budget), results
