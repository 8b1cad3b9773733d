"""The optimiser: AdamW with a group of parameters for each learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW as AdamW

if TYPE_CHECKING:
    from sottovoce.train.stages.train import Train


def group(
    name: str, parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.0, maximize: bool = False
) -> dict[str, Any]:
    """A parameter group with its peak learning rate. maximize: these parameters maximise the loss, as Lagrange multipliers do."""
    settings = {"name": name, "params": list(parameters), "base_lr": lr, "weight_decay": weight_decay}
    return {**settings, "maximize": True} if maximize else settings


def make_optimizer(groups: Iterable[dict[str, Any]], config: Train.Config) -> AdamW:
    """AdamW over the groups that are not empty, with fused kernels."""
    beta1, beta2 = config.betas
    return AdamW([each for each in groups if each["params"]], lr=config.lr, betas=(beta1, beta2), eps=1e-8, fused=True)


def schedule(step: int, config: Train.Config) -> float:
    """Share of the peak learning rate at update `step` (from 0): linear up over `warmup`, then linear down to 0 at `steps`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return (config.steps - step) / max(1, config.steps - config.warmup)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's learning rate to this share of its peak."""
    for each in optimizer.param_groups:
        each["lr"] = each["base_lr"] * factor


def clip(optimizer: torch.optim.Optimizer, limit: float) -> dict[str, Tensor]:
    """Clips the gradients of each group by the group's own norm, except groups that maximise. Returns the norms before clipping."""
    norms = {}
    for each in optimizer.param_groups:
        if not each["maximize"]:
            norms[each["name"]] = nn.utils.clip_grad_norm_(each["params"], limit)
    return norms


def carry_over(
    before: torch.optim.Optimizer,
    after: torch.optim.Optimizer,
    old: Mapping[str, Tensor],
    new: Iterable[tuple[str, Tensor]],
    shrink: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> None:
    """Copies the optimiser state of `before` to `after`, whose parameters replace those of `before`.

    old: parameters of `before`, by name. new: those of `after`, each with the name of the old one that it replaces. shrink: maps named old
    tensors to tensors of the new shapes.
    """
    kinds = {key for parameter in old.values() for key, value in before.state.get(parameter, {}).items() if value.dim()}
    moved = {
        kind: shrink({name: before.state[p][kind] for name, p in old.items() if kind in before.state.get(p, {})})
        for kind in kinds
    }
    for name, parameter in new:
        state = before.state.get(old[name]) if name in old else None
        if state:
            after.state[parameter] = {key: (moved[key][name] if key in moved else value).clone() for key, value in state.items()}
