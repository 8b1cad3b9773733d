"""Linear heads on pooled features, solved to convergence.

With the layer weights fixed, the cross-entropy of a linear head on a mean over time is multinomial logistic regression, and its squared
error is least squares: convex, with one minimum. The layer weights enter through a softmax-weighted sum, which is smooth but not convex.
L-BFGS (Liu and Nocedal 1989) with a strong Wolfe line search optimises layer weights and head together. All features are in memory, one
vector per layer and recording; an iteration reads (N, L, D) numbers twice. A long schedule of Adam ends at the same minimum (a test
compares them).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.evaluation.features.store import FeatureSet
from sottovoce.evaluation.heads.linear import MeanPool, Scaled
from sottovoce.evaluation.heads.probe import Best, Examples, NotFinite, Probe, Trial, without_denormals

ITERATIONS = 500  # of L-BFGS for each strength
GRADIENT_TOLERANCE, CHANGE_TOLERANCE = 1e-5, 1e-7  # converged: largest entry of the gradient, or change per iteration
PATIENCE = 2  # weaker strengths to try after the best one
PIECE = 256  # items copied at a time

Progress = Callable[[float, float], None]


def minimise(
    probe: Probe, values: Tensor, loss: Callable[[Any, Tensor, list[Any]], Tensor], targets: list[Any], l2: float
) -> tuple[float, int]:
    """Brings `probe` to the minimum of the mean loss plus l2 / 2 times the squared norm of all weights but the biases.

    The penalty includes the layer weights before the softmax: a stronger l2 makes the layers' shares more equal.

    values: (L, N, D) features, as `layers_first` gives them. Returns the mean loss and the iterations. Raises NotFinite.
    """
    head = probe.head
    assert isinstance(head, Scaled)
    layers, items, dim = values.shape
    flat, ones = values.view(layers, -1), torch.ones(items, device=values.device)
    parameters = list(probe.parameters())
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=CHANGE_TOLERANCE,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    penalised = [probe.sum.weights, *head.weights()]

    def mean_loss() -> Tensor:
        mixed = (probe.sum.weights.softmax(0) @ flat).view(items, 1, dim)
        return loss(head(mixed, ones), ones, targets)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = mean_loss() + l2 / 2 * torch.stack([weight.square().sum() for weight in penalised]).sum()
        if not torch.isfinite(value):
            raise NotFinite(f"the solver's loss is {value.item()}")
        value.backward()
        return value

    probe.train()
    optimizer.step(closure)
    iterations = int(optimizer.state[parameters[0]]["n_iter"])
    with torch.no_grad():
        value = float(mean_loss())
    if not (torch.isfinite(torch.tensor(value)) and all(torch.isfinite(p).all() for p in parameters)):
        raise NotFinite(f"the solver's loss is {value}")
    probe.eval()
    return value, iterations


@without_denormals()
def solve(
    build: Callable[[], nn.Module],
    loss: Callable[[Any, Tensor, list[Any]], Tensor],
    judge: Callable[[Probe], float],
    train: Examples[Any],
    strengths: Sequence[float],
    standardize: bool,
    seed: int,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> tuple[Probe | None, list[dict[str, Any]]]:
    """The probe whose strength of L2 is best on the dev set, and a record of every trial; ``None`` when no trial has a finite score.

    Each strength starts from equal weights of the layers, which are scaled alike first, so that the penalty prefers no layer. Strengths are
    tried from the strongest on, until `PATIENCE` in a row are no better than the best. Arguments as in `probe.fit`. seed: for the start of
    a head that is narrower than its outputs, whose loss is not convex; other heads start at zero.
    """
    features = train.features
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        like = build()
        assert isinstance(like, MeanPool), "the solver is for linear heads on a mean over time"
        probe = Probe(features.subject.layers, features.subject.dim, Scaled(like)).to(device)
    head = probe.head
    assert isinstance(head, Scaled)
    (probe.sum.fit if standardize else probe.sum.scale)(features)
    values = layers_first(features, probe.sum.mean.cpu(), probe.sum.std.cpu()).to(device)
    with torch.no_grad():
        head.scale_by(values.mean(0))
    best, trials, chosen, start = Best(probe), [], -1, copy.deepcopy(probe.state_dict())
    for number, l2 in enumerate(sorted(strengths, reverse=True)):
        began, iterations, score, reason = time.monotonic(), 0, float("-inf"), ""
        probe.load_state_dict(start)
        try:
            value, iterations = minimise(probe, values, loss, train.targets, l2)
            with torch.inference_mode():
                score = judge(probe)
        except NotFinite as problem:
            reason = str(problem)
        trial = Trial(seed, score, iterations, iterations, time.monotonic() - began, l2=l2, reason=reason)
        trials.append(trial.record() | ({} if reason else {"loss": round(value, 6)}))
        best.update(number, score)
        if score > float("-inf") and best.step == number:
            chosen = number
        progress(number + 1, len(strengths))
        if reason or (chosen >= 0 and number - chosen >= PATIENCE):
            break
    records = [{**trial, "chosen": number == chosen} for number, trial in enumerate(trials)]
    return (best.restore() if chosen >= 0 else None), records


def layers_first(features: FeatureSet, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
    """(L, N, D) float32: the pooled features of all items, minus `mean`, divided by `std`, (L, D) each."""
    subject = features.subject
    table = torch.empty(subject.layers, len(features), subject.dim)
    for begin in range(0, len(features), PIECE):
        rows = features.batch(range(len(features))[begin : begin + PIECE])
        piece = (rows.values.float() * rows.unit[:, None] - mean) / std
        table[:, begin : begin + len(piece)] = piece.transpose(0, 1)
    return table
