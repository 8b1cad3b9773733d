"""Structured pruning. A plan says which tensors shrink together; gates, cost and cut all read it.

>>> gated = GatedEncoder(encoder, config.units, config.gates)
>>> budget = Budget(config.budget, gated.encoder.config, gated.plan)
>>> features = gated(wave, lengths)  # sampled gates; closed units are not computed
>>> pressure = lagrangian(budget.sparsity(gated.gates), target_at(step, config.ramp, budget.goal, budget.start))
>>> report = meet_budget(gated.gates, budget)  # at the end: the cut costs what was asked for
>>> student = gated.cut()  # a smaller Encoder, the same function as `gated` in evaluation
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sottovoce.pruning.apply import cut, cut_like, gather, named_tensors, narrow, open_units
from sottovoce.pruning.budget import Budget, BudgetConfig, Lagrangian, Report, choose, meet_budget, target_at
from sottovoce.pruning.cost import encoder_cost, total
from sottovoce.pruning.gate_config import GateConfig
from sottovoce.pruning.gated import GatedEncoder
from sottovoce.pruning.gates import Gates, hard_concrete, open_probability
from sottovoce.pruning.latency import LatencyModel, load_latency
from sottovoce.pruning.parts import encoder_parts
from sottovoce.pruning.plan import PruningPlan, make_plan, prepare, prepare_config, unprepared_config
from sottovoce.pruning.shrinking import combine_cuts, gate_values, shrink, shrink_tensors, units_to_keep
from sottovoce.pruning.subnet import Space
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Workload, full_widths, kinds


@dataclass(frozen=True)
class PruningConfig:
    """How a student is pruned during training. Defaults are DPHuBERT's (arXiv 2305.17651, and its run.sh).

    units: kinds of units with gates (`sottovoce list units`). ramp: updates over which the target sparsity rises to its goal.
    gate_lr, multiplier_lr: peak learning rates of log_alpha and of the Lagrange multipliers (which ascend).
    restarts: resets lambda1 to 0 whenever the target is met (dual restarts, Gallego-Posada et al. 2022, arXiv 2208.04425), so that it does
    not push the gates past the target; DPHuBERT has no restarts.
    moved_since: the model from which the teacher's training began, as in TEACHER; the budget then presses most on units that this training
    moved least (Interspeech 2026-1766, see `Gates.weigh`).
    live: after the ramp, every `live` updates, cuts the units whose probability of being open is below `live_below`, with their optimiser
    state, so that later updates are faster; 0 (the paper): cuts only at the end.
    space: the sizes of subnets, for stages of kind ``supernet`` and ``subnet``.
    """

    units: tuple[str, ...] = ("conv", "head", "ffn")
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    ramp: int = 5000
    gate_lr: float = 0.02
    multiplier_lr: float = 0.02
    restarts: bool = False
    gates: GateConfig = field(default_factory=GateConfig)
    moved_since: str = ""
    live: int = 0
    live_below: float = 1e-3
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        if self.live < 0 or not 0 < self.live_below < 0.5:
            raise ValueError("live must be 0 or a number of updates, and live_below a probability between 0 and 0.5")
        if not self.units:
            raise ValueError("units is empty: nothing to prune")
        kinds(self.units)  # ValueError for an unknown kind


__all__ = [
    "Budget",
    "BudgetConfig",
    "GateConfig",
    "GatedEncoder",
    "Gates",
    "Group",
    "Lagrangian",
    "LatencyModel",
    "PartCost",
    "PruningConfig",
    "PruningPlan",
    "Report",
    "Slice",
    "UnitKind",
    "Workload",
    "choose",
    "combine_cuts",
    "cut",
    "cut_like",
    "encoder_cost",
    "encoder_parts",
    "full_widths",
    "gate_values",
    "gather",
    "hard_concrete",
    "kinds",
    "load_latency",
    "make_plan",
    "meet_budget",
    "named_tensors",
    "narrow",
    "open_probability",
    "open_units",
    "prepare",
    "prepare_config",
    "shrink",
    "shrink_tensors",
    "target_at",
    "total",
    "units_to_keep",
    "unprepared_config",
]
