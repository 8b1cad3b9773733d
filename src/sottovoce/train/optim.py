"""The optimiser of distil-and-prune: weights descend, gates descend faster, multipliers ascend (DPHuBERT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from sottovoce.train.recipe import Stage


def groups(
    stage: Stage,
    weights: Iterable[nn.Parameter],
    gates: Iterable[nn.Parameter],
    multipliers: Iterable[nn.Parameter],
    rates: tuple[float, float],
) -> list[dict[str, object]]:
    """Parameter groups named ``weights``, ``gates``, ``multipliers``; `rates` are the learning rates of the last two."""
    parts = [
        {"name": "weights", "params": list(weights), "base_lr": stage.lr, "weight_decay": stage.weight_decay},
        {"name": "gates", "params": list(gates), "base_lr": rates[0], "weight_decay": 0.0},
        {"name": "multipliers", "params": list(multipliers), "base_lr": rates[1], "weight_decay": 0.0, "maximize": True},
    ]
    return [part for part in parts if part["params"]]


def optimizer(parts: list[dict[str, object]], stage: Stage) -> torch.optim.AdamW:
    """AdamW, with one fused kernel per group. The multipliers' group maximises, which is the reference's negative learning rate."""
    beta1, beta2 = stage.betas
    return torch.optim.AdamW(parts, lr=stage.lr, betas=(beta1, beta2), eps=1e-8, fused=True)


def schedule(step: int, stage: Stage) -> float:
    """Share of the base learning rate at update `step` (from 0): linear up over `warmup`, then linear down to 0 at `steps`."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return (stage.steps - step) / max(1, stage.steps - stage.warmup)


def set_rates(made: torch.optim.Optimizer, factor: float) -> None:
    for group in made.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip(made: torch.optim.Optimizer, limit: float) -> dict[str, Tensor]:
    """Clips the weights' and the gates' gradients, each by its own norm; multipliers stay as they are. Returns the norms before."""
    norms = {}
    for group in made.param_groups:
        if group["name"] != "multipliers":
            norms[group["name"]] = nn.utils.clip_grad_norm_(group["params"], limit)
    return norms


def carry_over(
    before: torch.optim.Optimizer,
    after: torch.optim.Optimizer,
    names: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    cut: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> None:
    """Gives `after` the state of `before`, whose parameters have been replaced by smaller ones.

    names: the parameters of both, by the names that they share. cut: makes a mapping of old tensors into one of new ones.
    """
    old, new = names
    kinds = {key for parameter in old.values() for key, value in before.state.get(parameter, {}).items() if value.dim()}
    moved = {
        kind: cut({name: before.state[p][kind] for name, p in old.items() if kind in before.state.get(p, {})}) for kind in kinds
    }
    for name, parameter in new.items():
        state = before.state.get(old[name])
        if state:
            after.state[parameter] = {key: moved[key][name].clone() if key in moved else value for key, value in state.items()}
