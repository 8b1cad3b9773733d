"""Joint distillation and structured pruning: gates on the student's units are trained with its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sottovoce.core.config import overlay
from sottovoce.core.registry import STAGES
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import (
    Budget,
    GatedEncoder,
    Lagrangian,
    PruningConfig,
    combine_cuts,
    make_plan,
    named_tensors,
    prepare_config,
    shrink,
    shrink_tensors,
    target_at,
    units_to_keep,
)
from sottovoce.pruning.importance.movement import movement
from sottovoce.train import optim
from sottovoce.train.learner import Learner
from sottovoce.train.origin import origin_tensors
from sottovoce.train.phase import Phase
from sottovoce.train.run import Run
from sottovoce.train.stages.train import Train
from sottovoce.train.state import TrainState
from sottovoce.train.succession import STUDENT
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work

TRAVEL = 40.0  # of log_alpha over a schedule, if it moves by its learning rate in each update
GATES = "gates"  # given by this stage, taken by the cut
UNITS = {"params": "params", "macs": "macs_per_s", "latency": "latency_ms"}


@STAGES.register("prune")
class Prune(Train):
    """Trains gates on the units of ``pruning.units`` with the weights, under a budget (DPHuBERT, arXiv 2305.17651). A cut must follow."""

    gives: ClassVar[tuple[str, ...]] = (GATES,)
    copies: ClassVar[int] = 1  # the weights of open units are gathered
    compiles: ClassVar[bool] = False  # shapes differ from update to update

    @dataclass(frozen=True)
    class Config(Train.Config):
        """As in `train`. Settings of gates and budget are in ``pruning``, because the cut reads them, too."""

    def check(self) -> None:
        super().check()
        if self.recipe.pruning.ramp > self.updates:
            raise ValueError(
                f"pruning.ramp ({self.recipe.pruning.ramp}) is longer than stages.{self.label} ({self.updates} steps); "
                "--steps scales both"
            )

    def scaled(self, updates: Mapping[str, int], factor: float) -> dict[str, Any]:
        """The ramp keeps its share. A gate moves by about its learning rate per update, so in a short schedule gates and multipliers get a
        higher one: enough for a gate to move by `TRAVEL` in all."""
        pruning = self.recipe.pruning
        pruned = [updates[stage.label] for stage in self.recipe.build_stages() if isinstance(stage, Prune)]
        least = TRAVEL / sum(pruned)
        changes = {
            "ramp": min([max(1, round(pruning.ramp * factor)), *pruned]),
            "live": max(1, round(pruning.live * factor)) if pruning.live else 0,
            "gate_lr": max(pruning.gate_lr, least),
            "multiplier_lr": max(pruning.multiplier_lr, least),
        }
        return overlay(super().scaled(updates, factor), {"pruning": changes})

    def prepare(self, work: Work, teachers: Teachers) -> None:
        super().prepare(work, teachers)
        set_budget(work, self.recipe.pruning, teachers.config)

    def describe(self, work: Work) -> dict[str, Any]:
        assert work.budget is not None
        sizes = Counter[str]()
        for group in work.budget.plan:
            sizes[group.kind] += group.size
        config = work.budget.config
        target = {
            UNITS[config.unit]: float(work.budget.yardstick.reference) * config.keep,
            "smallest_share": work.budget.lowest(),
        }
        return {"plan": dict(sizes), "student": target}

    def phase(self, run: Run, learner: Learner, work: Work) -> Phase:
        pruning = self.recipe.pruning
        set_budget(work, pruning, run.teachers.config)  # a stage before may have changed the student's shape
        assert work.budget is not None
        gated = GatedEncoder(work.encoder, pruning.units, pruning.gates)
        if pruning.moved_since:
            before = origin_tensors(pruning.moved_since, gated.encoder, pruning.units)
            gated.gates.weigh(movement(named_tensors(gated.encoder), before, gated.plan))
        learner.student = gated
        return Pruning(learner, work.budget.of(gated.encoder.config, gated.plan), pruning, run.world.device)


def set_budget(work: Work, pruning: PruningConfig, teacher: EncoderConfig | None) -> None:
    """Sets the budget of `work`. ValueError if it cannot be met.

    The budget counts from the teacher or, if the teacher's shape is not known, from the student at the start of the run.
    """
    if work.budget is None:
        shape = prepare_config(work.uncut or work.encoder.config, pruning.units)
        work.budget = Budget(pruning.budget, shape, make_plan(shape, pruning.units), teacher)


class Pruning(Phase):
    """Trains gates, pushes them towards the budget and, with ``pruning.live``, cuts closed units during training."""

    def __init__(self, learner: Learner, budget: Budget, config: PruningConfig, device: torch.device) -> None:
        """learner: its student is a `GatedEncoder`."""
        self.learner, self.budget, self.config = learner, budget, config
        self.lagrangian = Lagrangian().to(device)
        self.start = budget.start  # of the ramp: the sparsity at the start of the stage, whatever is cut later
        self.uncut = self.gated.encoder.config
        self.kept: dict[str, list[int]] = {}  # units of `uncut` that are left, by group, after cuts during training
        self.sparsity, self.target = torch.zeros(()), 0.0  # in the last update

    @property
    def gated(self) -> GatedEncoder:
        """The student with its gates."""
        assert isinstance(self.learner.student, GatedEncoder)
        return self.learner.student

    def groups(self) -> list[dict[str, Any]]:
        return [
            optim.group("gates", self.gated.gates.parameters(), self.config.gate_lr),
            optim.group("multipliers", self.lagrangian.parameters(), self.config.multiplier_lr, maximize=True),
        ]

    def penalty(self, step: int) -> Tensor | None:
        self.sparsity = self.budget.sparsity(self.gated.gates)
        self.target = target_at(step, self.config.ramp, self.budget.goal, self.start)
        penalty: Tensor = self.lagrangian(self.sparsity, self.target)
        return penalty

    def after_update(self, state: TrainState) -> None:
        if self.config.restarts:
            self.lagrangian.restart(self.sparsity, self.target, state.optimizer)
        after_ramp = state.step - self.config.ramp
        if self.config.live and after_ramp >= 0 and after_ramp % self.config.live == 0:
            self._cut_closed(state)

    def _cut_closed(self, state: TrainState) -> None:
        """Cuts the units that will not open again, from weights, gates, budget and the optimiser's state."""
        before = self.gated
        kept = units_to_keep(before, self.budget, self.config.live_below)
        if kept is None:
            return
        units: Mapping[str, Sequence[int]] = kept

        def shrink_moments(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            inside = {name.removeprefix(STUDENT): tensor for name, tensor in tensors.items() if name.startswith(STUDENT)}
            return {**tensors, **{STUDENT + name: tensor for name, tensor in shrink_tensors(before, units, inside).items()}}

        state.replace_parameters(lambda: self._keep(units), shrink_moments)

    def _keep(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Keeps these units of each group, and all units of groups that are not named."""
        units = {group.name: kept.get(group.name, range(group.size)) for group in self.gated.plan}
        self.learner.student = shrink(self.gated, units)
        self.kept = combine_cuts(self.kept, kept)
        self.budget = self.budget.of(self.gated.encoder.config, self.gated.plan)

    def logs(self) -> dict[str, float]:
        multipliers = {name: float(value.detach()) for name, value in self.lagrangian.named_parameters()}
        return {"sparsity": float(self.sparsity.detach()), "target": self.target, **multipliers}

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "lagrangian": self.lagrangian.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["kept"]:
            self._keep(state["kept"])
        self.lagrangian.load_state_dict(state["lagrangian"])

    def finish(self, work: Work) -> None:
        work.gates, work.gated, work.budget = self.gated.gates.state_dict(), self.gated, self.budget
        if self.kept:
            work.kept, work.uncut = self.kept, self.uncut
