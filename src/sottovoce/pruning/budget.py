"""How small: a share of the teacher's parameters or MACs, the pressure towards it in training, and hitting it at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..encoder import EncoderConfig
from ..types import Cost
from .cost import Width, encoder_cost, full_widths, total
from .gates import Gates
from .plan import Plan

TOLERANCE = 0.01  # a budget is met when the cut student's cost is within this share of it
EXTREME = 40.0  # a log_alpha so far from 0 leaves no doubt whether a gate is open


@dataclass(frozen=True)
class BudgetConfig:
    """unit: what is limited, parameters or multiply-accumulates. keep: share of the teacher's that is left; 0.25 is the main
    setting of DPHuBERT (arXiv 2305.17651). seconds: length of the clip for which MACs are counted.
    """

    unit: Literal["params", "macs"] = "params"
    keep: float = 0.25
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.unit not in ("params", "macs"):
            raise ValueError(f"no budget in '{self.unit}'; known: params, macs")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share of the teacher, above 0 and at most 1; got {self.keep}")


class Budget:
    """A budget for an encoder of the given shape, pruned by `plan`.

    teacher: the shape whose cost is 1, by default the encoder's own with all its units. ValueError, before anything is trained,
    when `plan` cannot take away enough.
    """

    def __init__(self, config: BudgetConfig, encoder: EncoderConfig, plan: Plan, teacher: EncoderConfig | None = None) -> None:
        self.config, self.encoder, self.plan = config, encoder, plan
        self.reference = self._of(encoder_cost(teacher or _unscaled(encoder), seconds=config.seconds))
        lowest = self.lowest()
        if config.keep < lowest:
            kinds = ", ".join(dict.fromkeys(group.kind for group in plan))
            raise ValueError(
                f"cannot keep only {config.keep:.4g} of the teacher's {config.unit}: {lowest:.4g} is left when all units "
                f"({kinds}) are gone; raise keep or prune more kinds of units"
            )

    @property
    def goal(self) -> float:
        """The sparsity to reach."""
        return 1 - self.config.keep

    def _of(self, costs: Mapping[str, Cost]) -> Width:
        cost = total(costs)
        return cost.params if self.config.unit == "params" else cost.macs

    def share(self, widths: Mapping[str, Width]) -> Width:
        """Cost of an encoder with so many (expected) open units in each group, as a share of the teacher's."""
        return self._of(encoder_cost(self.encoder, widths, self.config.seconds)) / self.reference

    def sparsity(self, gates: Gates) -> Tensor:
        """1 - E[cost] / cost of the teacher: a differentiable scalar."""
        sparsity = 1 - self.share(gates.expected())
        assert isinstance(sparsity, Tensor)
        return sparsity

    def measure(self, counts: Mapping[str, int]) -> float:
        """Exact share of the cut encoder with so many units in each group."""
        return float(self.share(counts))

    def lowest(self) -> float:
        """The smallest share that can be reached."""
        return self.measure({group.name: group.minimum for group in self.plan})


def _unscaled(config: EncoderConfig) -> EncoderConfig:
    """Without the scales that `prepare` added to a position that still has all its groups: the teacher has none."""
    position = config.position
    if position is None or position.kept is None or len(position.kept) < position.groups:
        return config
    return dataclasses.replace(config, position=dataclasses.replace(position, kept=None))


class Lagrangian(nn.Module):
    """lambda1 (s - t) + lambda2 (s - t)^2, for expected sparsity s and target t (Wang et al., arXiv 1910.04732; DPHuBERT).

    The multipliers start at 0 and must *ascend*: give their optimiser group ``maximize=True`` (the reference: a negative rate).
    """

    def __init__(self) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, sparsity: Tensor, target: float) -> Tensor:
        gap = sparsity - target
        return self.lambda1 * gap + self.lambda2 * gap**2


def target_at(step: int, ramp: int, goal: float) -> float:
    """Sparsity to aim at in update `step`: from 0 linearly to `goal` at `ramp`, then constant."""
    return goal * min(1.0, step / ramp) if ramp > 0 else goal


@dataclass(frozen=True)
class Report:
    """What `hit` did. target, before, after: shares of the teacher's `unit`, asked for, cut as trained, cut as calibrated.

    shift: what was added to every log_alpha. filled: single units opened after that. reason: why the target was missed, or "".
    counts: open units of each group. met: within 1 %.
    """

    unit: str
    target: float
    before: float
    after: float
    shift: float
    filled: int
    met: bool
    reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Distance from the target, as a share of it; negative when smaller than asked for."""
        return self.after / self.target - 1

    @property
    def text(self) -> str:
        """One sentence."""
        name = "parameters" if self.unit == "params" else "MACs"
        verdict = "met" if self.met else f"NOT met: {self.reason}"
        moved = f"as trained {self.before:.2%}; log_alpha moved by {self.shift:+.3f}, then {self.filled} single units opened"
        return f"keeps {self.after:.2%} of the teacher's {name}, budget {self.target:.2%} {verdict} ({moved})"


@torch.no_grad()
def hit(gates: Gates, budget: Budget) -> Report:
    """Makes the cut of `gates` cost what the budget says, measured and not expected.

    One shift of every log_alpha, found by bisection, is the largest whose cut stays within the budget; then single units are
    opened in order of log_alpha while they fit. The shift is written into the gates, and the sets of open units with
    `Gates.choose`, so that `Gates.evaluate` gives exactly the cut that was measured, with the soft values of the shifted
    log_alpha.
    """
    keep, flat = budget.config.keep, gates.flat().detach().cpu().double()  # on the host: many small steps

    def counts(mask: Tensor) -> dict[str, int]:
        return {name: int(part.sum()) for name, part in gates.split(mask).items()}

    def fits(shift: float) -> bool:
        return budget.measure(counts(gates.counted_mask(flat + shift))) <= keep

    before = budget.measure(counts(gates.open_mask().cpu()))
    low, high = -EXTREME - float(flat.max()), EXTREME - float(flat.min())
    if fits(high):
        low = high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    mask = gates.counted_mask(flat + low)
    shift = 0.0 if torch.equal(mask, gates.counted_mask(flat)) else low  # do not touch soft values for nothing
    mask, filled = _fill(mask, flat, gates, budget)

    for parameter in gates.log_alpha.values():
        parameter.add_(shift)
    gates.choose({name: part.nonzero().flatten().tolist() for name, part in gates.split(mask).items()})
    after = budget.measure(counts(mask))
    met = abs(after / keep - 1) <= TOLERANCE
    reason = "" if met else _why(after, counts(mask), budget)
    return Report(budget.config.unit, keep, before, after, shift, filled, met, reason, counts(mask))


def _fill(mask: Tensor, flat: Tensor, gates: Gates, budget: Budget) -> tuple[Tensor, int]:
    """Opens closed units, the likeliest first, while the cut stays within the budget. Returns the new mask and how many."""
    mask, before = mask.clone(), int(mask.sum())
    order = flat.argsort(descending=True, stable=True).tolist()
    owners = [group.name for group in gates.plan for _ in range(group.size)]
    counts = {name: int(part.sum()) for name, part in gates.split(mask).items()}
    share, opened = budget.measure(counts), True
    while opened:  # more than one round only if a whole part was opened, in which units are no longer free
        opened, done = False, set[str]()
        for unit in order:
            name = owners[unit]
            if mask[unit] or name in done:
                continue
            wider = budget.measure({**counts, name: counts[name] + 1})
            if share < wider <= budget.config.keep:
                mask[unit], share, opened = True, wider, True
                counts[name] += 1
            else:  # no later unit of this group can fit, since others only take more; or it is free, in a part that is gone
                done.add(name)
    return mask, int(mask.sum()) - before


def _why(after: float, counts: Mapping[str, int], budget: Budget) -> str:
    """Why the budget was missed: nothing left to open, or the next unit overshoots."""
    keep, full = budget.config.keep, full_widths(budget.encoder)
    above = [budget.measure({**counts, name: count + 1}) for name, count in counts.items() if count < full[name]]
    above = [share for share in above if share > keep]
    if not above:
        return f"with every unit open the encoder costs {after:.4f} of the teacher"
    return f"units are too coarse: one more makes {min(above):.4f}"
