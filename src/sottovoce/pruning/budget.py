"""The size budget: a share of the teacher's parameters, MACs or latency; its pressure in training; and how the cut meets it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.cost import encoder_cost, total
from sottovoce.pruning.gates import Gates
from sottovoce.pruning.latency import load_latency
from sottovoce.pruning.plan import PruningPlan, unprepared_config
from sottovoce.pruning.unit import Group, Width, full_widths, kind_of, kinds

TOLERANCE = 0.01  # the budget is met if the relative error of the cut student's cost is at most this
UNITS = {"params": "parameters", "macs": "MACs", "latency": "latency"}
EXTREME = 40.0  # a gate with this log_alpha is surely open, with its negative surely closed


@dataclass(frozen=True)
class BudgetConfig:
    """unit: what is limited: parameters, multiply-accumulates, or predicted milliseconds. keep: the share of the teacher's to keep;
    0.25 is the main setting of DPHuBERT (arXiv 2305.17651). seconds: length of the clip for which MACs are counted. machine: for latency,
    the file of `sottovoce bench --fit-cost`, which also sets the clip; by default the shipped file of a server CPU. round_to: keeps
    channels and feed-forward units in multiples of this (or all of them), which fast kernels need.
    """

    unit: Literal["params", "macs", "latency"] = "params"
    keep: float = 0.25
    seconds: float = 10.0
    machine: str = ""
    round_to: int = 1

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"no budget in '{self.unit}'; known: {', '.join(UNITS)}")
        if self.machine and self.unit != "latency":
            raise ValueError(
                f"machine is for latency budgets and this one counts {self.unit}; add unit=latency or remove machine"
            )
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1 (no rounding); got {self.round_to}")
        check_share(self.keep)


def check_share(keep: float) -> None:
    """ValueError unless a student can keep such a share of its teacher."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share of the teacher, above 0 and at most 1; got {keep}")


class Yardstick:
    """What a budget counts: costs of encoders as shares of the cost of `reference`.

    window: of the encoders to be measured. All hear clips of the same length: what a student saves by not padding to its teacher's window
    is beside the budget. ValueError if there is no latency file.
    """

    def __init__(self, config: BudgetConfig, reference: EncoderConfig, window: int) -> None:
        self.config = config
        self.latency = load_latency(config.machine) if config.unit == "latency" else None
        self.reference = self.cost(dataclasses.replace(reference, window=window))

    @property
    def unit(self) -> str:
        """The counted quantity, for messages."""
        machine = "" if self.latency is None else f" (predicted for {self.latency.where})"
        return UNITS[self.config.unit] + machine

    def cost(self, encoder: EncoderConfig, widths: Mapping[str, Width] | None = None, merged: bool = False) -> Width:
        if self.latency is not None:
            return self.latency.total(encoder, widths, merged)
        cost = total(encoder_cost(encoder, widths, self.config.seconds, merged))
        return cost.params if self.config.unit == "params" else cost.macs

    def share(self, encoder: EncoderConfig, widths: Mapping[str, Width] | None = None, merged: bool = False) -> Width:
        """Relative cost of an encoder. widths: (expected) number of units by group, where they are not those of the shape."""
        return self.cost(encoder, widths, merged) / self.reference


class Budget:
    """The budget of an encoder that is pruned by `plan`.

    teacher: the shape whose cost counts as 1, without padding that the encoder does not do; by default the encoder's own with all
    units. ValueError if `plan` cannot remove enough, or
    if there is no latency file.
    """

    def __init__(
        self, config: BudgetConfig, encoder: EncoderConfig, plan: PruningPlan, teacher: EncoderConfig | None = None
    ) -> None:
        self.config, self.encoder, self.plan = config, encoder, plan
        self.full = full_widths(teacher or encoder)
        self.yardstick = Yardstick(config, teacher or unprepared_config(encoder), encoder.window)
        lowest = self.lowest()
        if config.keep < lowest:
            names = ", ".join(dict.fromkeys(group.kind for group in plan))
            raise ValueError(
                f"cannot keep only {config.keep:.4g} of the teacher's {config.unit}: {lowest:.4g} is left without any of the units "
                f"({names}); raise keep or prune more kinds of units"
            )

    @property
    def goal(self) -> float:
        """The sparsity to reach."""
        return 1 - self.config.keep

    @property
    def start(self) -> float:
        """The sparsity with every unit open: 0 for a copy of the teacher, more for a student that starts smaller.

        The ramp starts here. A ramp from 0 would first push gates open, and the multipliers would not recover in time.
        """
        return min(self.goal, max(0.0, 1 - float(self.share({}))))

    @property
    def unit(self) -> str:
        """The counted quantity, for messages."""
        return self.yardstick.unit

    def of(self, encoder: EncoderConfig, plan: PruningPlan) -> Budget:
        """The same budget with the same teacher, for an encoder that was cut during training."""
        budget = copy.copy(self)
        budget.encoder, budget.plan = encoder, plan
        return budget

    def share(self, widths: Mapping[str, Width]) -> Width:
        """Cost relative to the teacher. widths: (expected) number of open units by group."""
        return self.yardstick.share(self.encoder, widths)

    def sparsity(self, gates: Gates) -> Tensor:
        """1 - E[cost] / cost of the teacher, a differentiable scalar."""
        sparsity = 1 - self.share(gates.expected())
        assert isinstance(sparsity, Tensor)
        return sparsity

    def measure(self, counts: Mapping[str, int]) -> float:
        """Exact relative cost of a cut encoder, after `factors.merge`. counts: units by group."""
        return float(self.yardstick.share(self.encoder, counts, merged=True))

    def lowest(self) -> float:
        """The smallest reachable share."""
        return self.measure({group.name: self.rounded(group, 0) for group in self.plan})

    def rounded(self, group: Group, count: int) -> int:
        """The allowed number of units nearest to `count`: a multiple of `round_to`, or all; at least the group's minimum."""
        below = min(self._most(group), count // self._step(group) * self._step(group))
        nearest = min(below, self.wider(group, count), key=lambda option: abs(option - count))
        return max(nearest, self.wider(group, group.minimum - 1) if group.minimum else 0)

    def wider(self, group: Group, count: int) -> int:
        """The next allowed number of units above `count`, or the largest."""
        step = self._step(group)
        return min(self._most(group), (count // step + 1) * step)

    def _step(self, group: Group) -> int:
        return self.config.round_to if kind_of(group).rounded else 1

    def _most(self, group: Group) -> int:
        """The largest allowed number: all units, if that is a multiple of `round_to` or the teacher's number, else the multiple below."""
        multiple = group.size // self._step(group) * self._step(group)
        return group.size if group.size == self.full.get(group.name) or multiple < group.minimum else multiple


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

    @torch.no_grad()
    def restart(self, sparsity: Tensor, target: float, optimizer: torch.optim.Optimizer) -> None:
        """Resets lambda1 and its momentum to 0 if the target is met (Gallego-Posada et al. 2022, arXiv 2208.04425).

        Otherwise lambda1, which grew while sparsity was below the target, keeps closing gates. lambda2 holds the target.
        """
        missed = sparsity < target  # stays on the device, to avoid a synchronisation
        self.lambda1.mul_(missed)
        if "exp_avg" in optimizer.state[self.lambda1]:
            optimizer.state[self.lambda1]["exp_avg"].mul_(missed)


def target_at(step: int, ramp: int, goal: float, start: float = 0.0) -> float:
    """Target sparsity in update `step`: linear from `start` to `goal` at `ramp`, then constant."""
    return start + (goal - start) * min(1.0, step / ramp) if ramp > 0 else goal


@dataclass(frozen=True)
class Report:
    """What `meet_budget` or `choose` did.

    target, before, after: shares of the teacher's `unit`: the budget, what the gates kept at the end of training (``None`` without
    gates), what the cut keeps. shift: added to every log_alpha. filled: units opened after the shift. met: whether the cut is within 1 % of
    the budget. reason: why it is not, or "". counts: open units of each group. counted: the unit, for messages.
    """

    unit: str
    target: float
    before: float | None
    after: float
    shift: float
    filled: int
    met: bool
    reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    counted: str = ""

    @property
    def error(self) -> float:
        """Relative error of the cut's cost; negative if the student is smaller than the budget."""
        return self.after / self.target - 1

    @property
    def text(self) -> str:
        """One line: the size, whether it meets the budget, and what training had reached."""
        verdict = "met" if self.met else f"NOT met: {self.reason}"
        size = f"keeps {100 * self.after:.2f} % of the teacher's {self.counted or UNITS[self.unit]}"
        if self.before is None:
            return f"{size}, budget {100 * self.target:.2f} % {verdict}."
        reached = f"Training reached {100 * self.before:.1f} %"
        if abs(self.before - self.after) < 0.0005:
            end = f"{reached}."
        elif self.before > self.after:
            end = f"{reached}; the rest was cut to meet the budget."
        else:
            end = f"{reached}; units were opened again to use the whole budget."
        return f"{size}, budget {100 * self.target:.2f} % {verdict}. {end}"

    @property
    def warning(self) -> str:
        """A warning with advice if training ended more than a tenth away from the budget, else ""."""
        if self.before is None or abs(self.before / self.target - 1) <= 0.1:
            return ""
        # a higher gate_lr is no advice: the gates would overshoot and recover too late
        less = "raise pruning.multiplier_lr, the pressure towards the budget"
        more = "set pruning.restarts=true, which ends the pressure at the target"
        return (
            f"warning: training ended at {100 * self.before:.1f} %, far from the budget of {100 * self.target:.1f} %, so the cut chose "
            f"units that training had not decided. Train longer (--steps), or {less if self.before > self.target else more}"
        )


@torch.no_grad()
def meet_budget(gates: Gates, budget: Budget) -> Report:
    """Changes `gates` so that the cut meets the budget, by exact cost, not expected cost.

    Bisection finds the largest shift of all log_alpha whose cut stays within the budget. Then units are opened in order of log_alpha
    while they fit. Both respect `round_to`. The shift is added to the gates, and `Gates.choose` fixes the open units, so that
    `Gates.evaluate` gives exactly this cut, with the soft values of the shifted log_alpha.
    """
    keep, flat = budget.config.keep, gates.flat().detach().cpu().double()  # on the host, because there are many small steps

    def counts(mask: Tensor) -> dict[str, int]:
        return {name: int(part.sum()) for name, part in gates.split(mask).items()}

    def rounded(shift: float) -> dict[str, int]:
        counted = counts(gates.counted_mask(flat + shift))
        return {group.name: budget.rounded(group, counted[group.name]) for group in gates.plan}

    def fits(shift: float) -> bool:
        return budget.measure(rounded(shift)) <= keep

    before = budget.measure(counts(gates.open_mask().cpu()))
    low, high = -EXTREME - float(flat.max()), EXTREME - float(flat.min())
    if fits(high):
        low = high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    shifted = rounded(low)
    shift = 0.0 if shifted == rounded(0.0) else low  # keeps the soft values if the counts do not change
    kept = _filled(shifted, gates.split(flat), budget)

    for parameter in gates.log_alpha.values():
        parameter.add_(shift)
    gates.choose({name: best(part, kept[name]) for name, part in gates.split(flat).items()})
    after = budget.measure(kept)
    met = _met(after, keep)
    filled = sum(max(0, kept[name] - count) for name, count in shifted.items())
    reason = "" if met else _why(after, kept, budget)
    return Report(budget.config.unit, keep, before, after, shift, filled, met, reason, kept, budget.unit)


def _met(share: float, keep: float) -> bool:
    return abs(share / keep - 1) <= TOLERANCE


@torch.no_grad()
def choose(scores: Mapping[str, Tensor], budget: Budget) -> tuple[dict[str, list[int]], Report]:
    """Chooses the units to keep under `budget` by scores alone, without gates: those above the lowest threshold that meets it.

    scores: (size,) of each group of the plan; larger is more important, and numbers of different groups are compared. As in
    `meet_budget`, what is left of the budget is filled with the next units. Returns the units of each group that stay, and a report.
    """
    scores = {group.name: scores[group.name].detach().cpu().double() for group in budget.plan}
    closing = torch.cat(list(scores.values())).argsort(stable=True)
    sizes = [len(part) for part in scores.values()]

    def counts(closed: int) -> dict[str, int]:
        mask = torch.ones(len(closing), dtype=torch.bool)
        mask[closing[:closed]] = False
        left = dict(zip(scores, (int(part.sum()) for part in mask.split(sizes)), strict=True))
        return {group.name: budget.rounded(group, left[group.name]) for group in budget.plan}

    low, high = 0, len(closing)  # too few are closed, enough are
    if budget.measure(counts(low)) <= budget.config.keep:
        high = low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.measure(counts(middle)) <= budget.config.keep else (middle, high)
    chosen = counts(high)
    kept = _filled(chosen, scores, budget)
    after = budget.measure(kept)
    met = _met(after, budget.config.keep)
    filled = sum(max(0, kept[name] - count) for name, count in chosen.items())
    reason = "" if met else _why(after, kept, budget)
    report = Report(budget.config.unit, budget.config.keep, None, after, 0.0, filled, met, reason, kept, budget.unit)
    return {name: best(part, kept[name]) for name, part in scores.items()}, report


def best(scores: Tensor, count: int) -> list[int]:
    """The `count` units of largest score, in order; of equal ones the last, as in `Gates.counted_mask`."""
    return sorted(scores.argsort(stable=True)[len(scores) - count :].tolist())


def _filled(counts: Mapping[str, int], scores: Mapping[str, Tensor], budget: Budget) -> dict[str, int]:
    """The counts with which the budget is used up, as far as its units allow."""
    counts = _fill(counts, scores, budget)
    return counts if _met(budget.measure(counts), budget.config.keep) else _open_parts(counts, scores, budget)


def _fill(counts: Mapping[str, int], scores: Mapping[str, Tensor], budget: Budget) -> dict[str, int]:
    """Opens closed units, the likeliest first, while the cut stays within the budget. Returns the new counts."""
    counts = dict(counts)
    # the scores of each group, largest first: the first counts[name] units are open
    ranked = {name: part.sort(descending=True).values.tolist() for name, part in scores.items()}
    order = sorted(
        ((value, i, group) for group in budget.plan for i, value in enumerate(ranked[group.name])), key=lambda at: -at[0]
    )
    share, opened = budget.measure(counts), True
    while opened:  # a second round only if a part was opened: its units were free before and now cost something
        opened, done = False, set[str]()
        for _, i, group in order:
            name = group.name
            if i < counts[name] or name in done:
                continue
            wider = {**counts, name: budget.wider(group, counts[name])}
            if share < budget.measure(wider) <= budget.config.keep:
                counts, share, opened = wider, budget.measure(wider), True
            else:  # it does not fit, and later ones will not either; or it costs nothing because its part is gone
                done.add(name)
    return counts


def _open_parts(counts: dict[str, int], scores: Mapping[str, Tensor], budget: Budget) -> dict[str, int]:
    """Opens closed parts, the likeliest first and with the fewest allowed units, and fills again, until the budget is met.

    A threshold alone opens parts of equal scores together, with all their units, which may be too large a step.
    """
    keep, likeliest = budget.config.keep, {name: float(part.max()) for name, part in scores.items()}
    covers = {group: part for kind in kinds() for part, group in kind.covers(budget.encoder).items()}
    closed = [group.name for group in budget.plan if group.name in covers and not counts[group.name]]
    for name in sorted(closed, key=lambda name: -likeliest[name]):
        members = [group for group in budget.plan if kind_of(group).part_of(group.name) == covers[name] and group.name != name]
        trial = {**counts, **{group.name: budget.wider(group, group.minimum) for group in members}, name: 1}
        if not counts[name] and budget.measure(trial) <= keep and not _met(budget.measure(counts), keep):
            filled = _fill(trial, scores, budget)
            counts = filled if budget.measure(filled) > budget.measure(counts) else counts
    return counts


def _why(after: float, counts: Mapping[str, int], budget: Budget) -> str:
    """Why the budget was missed: all units are open, or the next one overshoots."""
    keep, full = budget.config.keep, full_widths(budget.encoder)
    groups = [group for group in budget.plan if counts[group.name] < full[group.name]]
    above = [budget.measure({**counts, group.name: budget.wider(group, counts[group.name])}) for group in groups]
    above = [share for share in above if share > keep]
    if not above:
        return f"with every unit open the encoder costs {after:.4f} of the teacher"
    return f"units are too coarse: one more makes {min(above):.4f}"
