"""Training of a probe on a frozen model's features: weighted sum of layers, a head, a sweep over learning rates, early stopping.

As in SUPERB (Yang et al. 2021), only the layer weights and the head learn, and only the learning rate is tuned per model. The sweep is
part of each evaluation, and each trial is recorded.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sottovoce.evaluation.features.store import FeatureSet, Rows, moments
from sottovoce.evaluation.heads.schedule import Schedule

T = TypeVar("T")
M = TypeVar("M")
N = TypeVar("N", bound=nn.Module)
Progress = Callable[[int, int], None]
PIECE = 128  # rows


class NotFinite(ValueError):
    """A loss, a weight or an output is not finite. The text says which."""


@dataclass(frozen=True)
class Trial:
    """One training run: a learning rate (or a strength of L2) and a seed.

    dev: best score on the dev set, higher is better; minus infinity without one. best_step: updates (or iterations of the solver) until
    then, of `steps`. curve: (updates, dev score) of each dev evaluation. reason: why the trial is left out; "" if it counts.
    """

    seed: int
    dev: float
    best_step: int
    steps: int
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    lr: float | None = None
    l2: float | None = None
    reason: str = ""

    @property
    def finite(self) -> bool:
        return not self.reason and math.isfinite(self.dev)

    def record(self) -> dict[str, Any]:
        rate = {"lr": self.lr} if self.l2 is None else {"l2": self.l2}
        return {
            "seed": self.seed,
            **rate,
            "dev": self.dev if self.finite else None,
            "best_step": self.best_step,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "curve": [list(point) for point in self.curve],
            **({} if self.finite else {"left_out": self.why()}),
        }

    def why(self) -> str:
        """Why the trial is left out."""
        return self.reason or "its dev score has no value"

    def line(self) -> str:
        """A short name for the trial."""
        return f"seed {self.seed}, {'lr' if self.l2 is None else 'L2'} {self.lr if self.l2 is None else self.l2:g}"


class Best(Generic[N]):
    """Keeps the weights of `model` with the highest score, after `step` updates; curve: (updates, score) of each evaluation."""

    def __init__(self, model: N) -> None:
        self.model, self.score, self.step = model, -math.inf, 0
        self.curve: list[tuple[int, float]] = []
        self._state = copy.deepcopy(model.state_dict())

    def update(self, step: int, score: float) -> None:
        """Keeps the weights if `score` is the best so far; NaN never is."""
        if math.isfinite(score):
            self.curve.append((step, round(score, 4)))
        if score > self.score:
            self.score, self.step, self._state = score, step, copy.deepcopy(self.model.state_dict())

    def restore(self) -> N:
        """The model with the best weights, in eval mode."""
        self.model.load_state_dict(self._state)
        return self.model.eval()


@dataclass(frozen=True)
class Examples(Generic[T]):
    """Features, target and group of each item. A group is the item's speaker, for intervals; "" if unknown."""

    features: FeatureSet
    targets: list[T]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.targets)


class Mix(torch.autograd.Function):
    """(N, L, D) rows and (L, D) factors -> (N, D): the weighted sum over layers.

    Works in pieces that fit the processor's cache and reads half-precision rows directly: reading them is most of a probe's step.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(rows, factors)
        out = factors.new_empty((len(rows), rows.shape[2]))
        size = PIECE if rows.device.type == "cpu" else max(1, len(rows))
        for part, piece in zip(out.split(size), rows.split(size), strict=True):
            torch.sum(piece.to(factors.dtype, copy=True).mul_(factors), 1, out=part)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (gradient,) = gradients
        rows, factors = ctx.saved_tensors
        out = torch.zeros_like(factors)
        size = PIECE if rows.device.type == "cpu" else max(1, len(rows))
        for part, piece in zip(gradient.split(size), rows.split(size), strict=True):
            out += piece.to(factors.dtype, copy=True).mul_(part[:, None]).sum(0)
        return None, out


class WeightedSum(nn.Module):
    """Rows of B items -> (B, T, D): a learned softmax-weighted sum over the layers (SUPERB; Peters et al. 2018), zero in the padding.

    mean, std: (L, D), for features that are standardised first; both steps together are one linear map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.register_buffer("mean", torch.zeros(layers, dim))
        self.register_buffer("std", torch.ones(layers, dim))

    def forward(self, rows: Rows) -> Tensor:
        scale = self.weights.softmax(0)[:, None] / self.std
        mixed: Tensor = Mix.apply(rows.values, scale * rows.unit[:, None]) - (scale * self.mean).sum(0)
        return nn.utils.rnn.pad_sequence(mixed.split(rows.lengths.tolist()), batch_first=True)

    def fit(self, features: FeatureSet, items: int = 1000) -> None:
        """Standardises each dimension of each layer, by statistics of up to `items` items spread over `features`."""
        mean, deviation = moments([features], items)
        self.mean.copy_(mean)
        # at least half of the layer's mean: dimensions that hardly vary (averaged differences) would become loud noise
        self.std.copy_(torch.maximum(deviation, deviation.mean(1, keepdim=True) / 2) + 1e-8)

    def scale(self, features: FeatureSet, items: int = 1000) -> None:
        """Standardises each layer with one scale for all of its dimensions. Layer weights can undo this up to one factor."""
        mean, deviation = moments([features], items)
        self.mean.copy_(mean)
        self.std.copy_(deviation.square().mean(1, keepdim=True).sqrt().expand_as(deviation) + 1e-8)

    def shares(self) -> list[float]:
        """The weight of each layer; they sum to 1."""
        shares: list[float] = self.weights.detach().softmax(0).tolist()
        return shares


class Probe(nn.Module):
    """Weighted sum and head. head: (B, T, D) summed features, (B,) lengths -> the outputs for the task's `loss` and `count`."""

    def __init__(self, layers: int, dim: int, head: nn.Module) -> None:
        super().__init__()
        self.sum = WeightedSum(layers, dim)
        self.head = head

    def forward(self, rows: Rows) -> Any:
        return self.head(self.sum(rows), rows.lengths)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Flushes denormal numbers to 0 on this thread's CPU. Gradients of CTC and old moments of Adam have many, and they are slow."""
    before = bool(torch.tensor(1e-39) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@without_denormals()
def fit(
    build: Callable[[], nn.Module],
    loss: Callable[[Any, Tensor, list[Any]], Tensor],
    judge: Callable[[Probe], float],
    train: Examples[Any],
    schedule: Schedule,
    seed: int,
    lr: float,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> tuple[Probe, Trial]:
    """Trains one probe. build() returns the head, loss(outputs, lengths, targets) a mean, judge(probe) the dev score, higher is better.

    Returns the probe with the best dev score. A loss or an output that is not finite (`judge` raises NotFinite) ends the trial, which
    is then left out. progress: called with (updates done, most updates).
    """
    began = time.monotonic()
    features = train.features
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        probe = Probe(features.subject.layers, features.subject.dim, build()).to(device)
        if schedule.standardize:
            probe.sum.fit(features)
        groups: list[dict[str, Any]] = [
            {"params": probe.head.parameters()},
            {"params": probe.sum.parameters(), "lr": lr if schedule.layers_lr is None else schedule.layers_lr},
        ]
        optimizer = torch.optim.Adam(groups, lr=lr)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: schedule.rate(done + 1))
        best, step, reason = Best(probe), 0, ""
        order = batches(features.frames, schedule.batch, seed, pooled=features.kind == "pooled")
        for step in range(1, schedule.steps + 1):
            items = next(order)
            rows = features.batch(items).to(device)
            probe.train()
            value = loss(probe(rows), rows.lengths, [train.targets[i] for i in items])
            if not torch.isfinite(value):
                reason = f"the loss is {value.item()} at update {step}"
                break
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(probe.parameters(), schedule.clip)
            optimizer.step()
            rates.step()
            if step % schedule.evaluate_every == 0 or step == schedule.steps:
                probe.eval()
                try:
                    with torch.inference_mode():
                        best.update(step, judge(probe))
                except NotFinite as problem:
                    reason = f"{problem} at update {step}"
                    break
                if (step - best.step) // schedule.evaluate_every >= schedule.patience:
                    break
            progress(step, schedule.steps)
    progress(schedule.steps, schedule.steps)
    return best.restore(), Trial(seed, best.score, best.step, step, time.monotonic() - began, best.curve, lr, reason=reason)


def batches(frames: Sequence[int], size: int, seed: int, pooled: bool) -> Iterator[list[int]]:
    """Endless batches of items, each item once per epoch. Batches of frames have similar lengths, to save padding."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(frames), generator=generator).tolist()
        if not pooled:
            pools = [order[i : i + 16 * size] for i in range(0, len(order), 16 * size)]
            order = [i for pool in pools for i in sorted(pool, key=lambda i: frames[i])]
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        for i in torch.randperm(len(groups), generator=generator).tolist():
            yield groups[i]


def sweep(
    train_one: Callable[[int, float], tuple[M, Trial]], lrs: Sequence[float], seeds: Sequence[int]
) -> tuple[dict[int, M], list[dict[str, Any]]]:
    """Tries each learning rate with the first seed, then the other seeds with the rate that is best on the dev set.

    Returns the model of each seed, and a record of each trial; ``chosen`` marks trials whose model is used. Trials that are not finite are
    left out, and their records say why, so a seed may have no model, or none has one.
    """
    trials = [train_one(seeds[0], lr) for lr in lrs]
    models: dict[int, M] = {}
    finite = [each for each in trials if each[1].finite]
    if finite:
        best = max(finite, key=lambda each: each[1].dev)
        assert best[1].lr is not None
        others = [train_one(seed, best[1].lr) for seed in seeds[1:]]
        chosen = [best, *(each for each in others if each[1].finite)]
        models = {trial.seed: model for model, trial in chosen}
        trials += others
        used = {id(trial) for _, trial in chosen}
    else:
        used = set()
    return models, [{**trial.record(), "chosen": id(trial) in used} for _, trial in trials]
