"""Hard-concrete gates: binary choices that gradients can learn.

Louizos et al., "Learning sparse neural networks through L0 regularization" (arXiv 1712.01312). The constants are those of DPHuBERT
(Peng et al., arXiv 2305.17651) and of its source (asappresearch/flop; Wang et al., arXiv 1910.04732). tests/golden compares with
DPHuBERT's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sottovoce.pruning.apply import unit_matrix
from sottovoce.pruning.gate_config import GateConfig
from sottovoce.pruning.plan import PruningPlan
from sottovoce.pruning.unit import Group, kind_of

EVAL_SLOPE = 0.8  # flop's constant: soft gate values in evaluation are sigmoid(0.8 log_alpha / beta)


def hard_concrete(log_alpha: Tensor, config: GateConfig, generator: torch.Generator | None = None) -> Tensor:
    """Samples one z in [0, 1] per entry of `log_alpha`; exactly 0 and exactly 1 have positive probability."""
    noise = torch.rand(log_alpha.shape, generator=generator, device=log_alpha.device, dtype=log_alpha.dtype)
    u = config.eps + (1 - 2 * config.eps) * noise
    s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + log_alpha) / config.beta)
    return (s * (config.zeta - config.gamma) + config.gamma).clamp(0, 1)


def open_probability(log_alpha: Tensor, config: GateConfig) -> Tensor:
    """P(z > 0)."""
    return torch.sigmoid(log_alpha - config.beta * math.log(-config.gamma / config.zeta))


class Gates(nn.Module):
    """One log_alpha per unit of a plan.

    `sample` is for training, `evaluate` for the student that would be cut, `expected` for the budget; each returns group name -> tensor.
    `choose` fixes the units that `evaluate` keeps: it sets the buffer `chosen` (per unit: 1 open, 0 closed, -1 not set).

    With ``config.pinching``, a group's parameter is one number, and the buffer `sizes_of_units` holds slope log(norm) of every unit.
    weights: (units,) of units in `expected`, with mean 1 in every group, or ``None``.
    """

    chosen: Tensor
    sizes_of_units: Tensor
    weights: Tensor | None

    def __init__(self, plan: PruningPlan, config: GateConfig | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not len(plan):
            raise ValueError("the encoder has no units of these kinds: there is nothing left to prune")
        self.plan, self.config = plan, config or GateConfig()
        self.sizes = [group.size for group in plan]
        starts = [self._start(group) for group in plan]
        self.log_alpha = nn.ParameterDict(
            {
                self.key(group): torch.empty(1 if self.config.pinching else group.size).normal_(
                    m, self.config.std, generator=generator
                )
                for group, m in zip(plan, starts, strict=True)
            }
        )
        self.register_buffer("chosen", torch.full((sum(self.sizes),), -1, dtype=torch.int8))
        self.register_buffer("weights", None, persistent=False)
        if self.config.pinching:
            self.register_buffer("sizes_of_units", torch.zeros(sum(self.sizes)))

    def _start(self, group: Group) -> float:
        drop = kind_of(group).drop(self.config)
        return math.log((1 - drop) / drop)

    @staticmethod
    def key(group: Group) -> str:
        """The group's name in `log_alpha`, without dots, which parameter names cannot have."""
        return group.name.replace(".", "_")

    def flat(self) -> Tensor:
        """(units,) all log_alpha in plan order, so that one operation serves all groups."""
        each = [self.log_alpha[self.key(group)] for group in self.plan]
        if not self.config.pinching:
            return torch.cat(each)
        return torch.cat([part.expand(size) for part, size in zip(each, self.sizes, strict=True)]) + self.sizes_of_units

    @torch.no_grad()
    def measure(self, tensors: Mapping[str, Tensor], start: bool = False) -> None:
        """For pinching gates: reads the norms of the units' weights. start: sets the thresholds so that gates are on average open as
        `GateConfig.drop` says."""
        norms = [unit_matrix(tensors, group).norm(dim=1).clamp(min=1e-12) for group in self.plan]
        self.sizes_of_units.copy_(self.config.slope * torch.cat(norms).log())
        if start:
            for group, sizes in zip(self.plan, self.sizes_of_units.split(self.sizes), strict=True):
                self.log_alpha[self.key(group)].sub_(sizes.mean())

    @torch.no_grad()
    def weigh(self, moved: Mapping[str, Tensor], eps: float = 1e-8) -> None:
        """Makes `expected` count unit j as 1 / (moved_j + eps), with mean 1 in every group: the budget presses most on units that moved
        least (Interspeech 2026-1766). moved: (size,) of each group."""
        each = [1 / (moved[group.name].to(self.chosen.device).float() + eps) for group in self.plan]
        self.weights = torch.cat([weight / weight.mean() for weight in each])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        return {group.name: part for group, part in zip(self.plan, flat.split(self.sizes), strict=True)}

    def forward(self) -> dict[str, Tensor]:
        return self.sample() if self.training else self.evaluate()

    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """A new differentiable sample. If fewer units than a group's minimum are open, its likeliest units get the smallest positive value,
        so that they are gathered although their value is almost 0."""
        flat = self.flat()
        values = self.split(hard_concrete(flat, self.config, generator))
        for group, log_alpha in zip(self.plan, flat.detach().split(self.sizes), strict=True):
            if group.minimum:
                values[group.name] = _at_least(group.minimum, values[group.name], log_alpha)
        if self.config.straight_through:
            return {name: (value != 0).to(value.dtype) + (value - value.detach()) for name, value in values.items()}
        return values

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Soft values sigmoid(0.8 log_alpha / beta), or 1 for straight-through gates; zero for the round(n - E[open]) least likely units of
        each group."""
        if self.config.straight_through:
            return self.split(self.open_mask().float())
        flat = self.flat().float()
        soft = torch.sigmoid(EVAL_SLOPE * flat / self.config.beta).clamp(min=torch.finfo(flat.dtype).tiny)
        return self.split(soft * self.open_mask())

    @torch.no_grad()
    def open_mask(self) -> Tensor:
        """(units,) bool: the units that `evaluate` keeps: the chosen ones if there are any, else those of `counted_mask`."""
        if bool((self.chosen >= 0).any()):
            return self.chosen == 1
        return self.counted_mask(self.flat())

    def counted_mask(self, flat: Tensor) -> Tensor:
        """(units,) bool: all but the round(n - E[open]) units of smallest log_alpha in each group. flat: (units,) log_alpha."""
        parts = flat.split(self.sizes)
        expected = torch.stack([part.sum() for part in open_probability(flat, self.config).split(self.sizes)]).tolist()
        masks = []
        for group, log_alpha, count in zip(self.plan, parts, expected, strict=True):
            closed = min(round(group.size - count), group.size - group.minimum)
            # by log_alpha, not by soft value as in the reference: the order is the same, but log_alpha does not saturate
            order = log_alpha.argsort(stable=True)
            masks.append(torch.ones_like(log_alpha, dtype=torch.bool).scatter_(0, order[:closed], False))
        return torch.cat(masks)

    def expected(self) -> dict[str, Tensor]:
        """Expected number of open units of each group, a differentiable scalar; weighed if there are `weights`."""
        probability = open_probability(self.flat(), self.config)
        return {
            name: part.sum()
            for name, part in self.split(probability if self.weights is None else probability * self.weights).items()
        }

    @torch.no_grad()
    def choose(self, kept: Mapping[str, Iterable[int]] | None) -> None:
        """Makes `evaluate` keep exactly these units of each group; ``None``: those of `counted_mask` again."""
        if kept is None:
            self.chosen.fill_(-1)
            return
        mask = torch.zeros(sum(self.sizes), dtype=torch.int8)
        for group, part in zip(self.plan, mask.split(self.sizes), strict=True):
            part[torch.tensor(list(kept[group.name]), dtype=torch.long)] = 1
        self.chosen.copy_(mask)

    @torch.no_grad()
    def select(self, plan: PruningPlan, kept: Mapping[str, Sequence[int]]) -> Gates:
        """Gates with the same log_alpha for `plan`, the plan of the encoder after a cut to `kept`."""
        selected = Gates(plan, self.config, torch.Generator())
        selected.weights = None if self.weights is None else torch.ones(sum(selected.sizes))
        mine, theirs = self._per_unit(), selected._per_unit()
        for group in plan:
            index = torch.tensor(list(kept.get(group.name, range(group.size))), dtype=torch.long)
            old = self.log_alpha[self.key(group)]
            index = index.to(old.device)
            selected.log_alpha[self.key(group)].copy_(old if self.config.pinching else old[index])
            for before, after in zip(mine, theirs, strict=True):
                after[group.name].copy_(before[group.name][index])
        if selected.weights is not None:
            selected.weights = torch.cat([part / part.mean() for part in selected.split(selected.weights).values()])
        return selected.to(self.chosen.device).train(self.training)

    def _per_unit(self) -> list[dict[str, Tensor]]:
        """The buffers with a number per unit, by group."""
        return [self.split(buffer) for name, buffer in sorted(self.named_buffers()) if len(buffer) == sum(self.sizes)]


def _at_least(minimum: int, values: Tensor, log_alpha: Tensor) -> Tensor:
    """`values` where at least the `minimum` units of largest log_alpha are not zero. Computed on the device, without a synchronisation."""
    likeliest = torch.zeros_like(values, dtype=torch.bool).scatter_(0, log_alpha.topk(minimum).indices, True)
    lacking = (values != 0).sum() < minimum
    return torch.where(likeliest & lacking & (values == 0), torch.finfo(values.dtype).tiny, values)
