"""Cutting units for good in a stage that prunes: student, gates, budget and optimiser become smaller together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sottovoce.pruning import Budget, GatedEncoder, Lagrangian, PruningConfig, composed, lasting, moments, shrink
from sottovoce.train import optim
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Stage


def due(step: int, pruning: PruningConfig) -> bool:
    """Whether after `step` updates it is time to look: at the ramp's end, and every `live` updates from there on."""
    return pruning.live > 0 and step >= pruning.ramp and (step - pruning.ramp) % pruning.live == 0


def optimizer_of(learner: Learner, lagrangian: Lagrangian, stage: Stage, pruning: PruningConfig) -> torch.optim.AdamW:
    """The optimiser of everything that is trained in `stage`."""
    gates = list(learner.student.gates.parameters()) if isinstance(learner.student, GatedEncoder) else []
    plain = [p for p in learner.parameters() if p.requires_grad and not any(p is gate for gate in gates)]
    multipliers = lagrangian.parameters() if gates else []
    return optim.optimizer(optim.groups(stage, plain, gates, multipliers, (pruning.gate_lr, pruning.multiplier_lr)), stage)


def cut(learner: Learner, kept: Mapping[str, Sequence[int]], budget: Budget | None) -> Budget | None:
    """Leaves only `kept` of the learner's student, and notes it there. The budget of what is left, counted from the same teacher."""
    assert isinstance(learner.student, GatedEncoder)
    learner.student = shrink(
        learner.student, {group.name: kept.get(group.name, range(group.size)) for group in learner.student.plan}
    )
    learner.kept = composed(learner.kept, kept)
    return None if budget is None else budget.of(learner.student.encoder.config, learner.student.plan)


def step(
    learner: Learner, lagrangian: Lagrangian, stage: Stage, pruning: PruningConfig, optimizer: torch.optim.AdamW, budget: Budget
) -> tuple[torch.optim.AdamW, Budget]:
    """Cuts what will not open again; optimiser and budget for what is left, or those that there were."""
    before = learner.student
    assert isinstance(before, GatedEncoder)
    kept = lasting(before, budget, pruning.live_below)
    if kept is None:
        return optimizer, budget
    old = named(learner, lagrangian)
    smaller = cut(learner, kept, budget)
    assert smaller is not None
    made = optimizer_of(learner, lagrangian, stage, pruning)

    def cut_moments(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inside = {name.removeprefix(STUDENT): tensor for name, tensor in tensors.items() if name.startswith(STUDENT)}
        return {**tensors, **{STUDENT + name: tensor for name, tensor in moments(before, kept, inside).items()}}

    optim.carry_over(optimizer, made, (old, named(learner, lagrangian)), cut_moments)
    return made, smaller


STUDENT = "student."


def named(learner: Learner, lagrangian: Lagrangian) -> dict[str, nn.Parameter]:
    """All that may be trained, by names that do not change when units are cut."""
    return {**dict(learner.named_parameters()), **{f"lagrangian.{name}": p for name, p in lagrangian.named_parameters()}}
