"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from sottovoce.data import Stream
from sottovoce.pruning import Budget, GatedEncoder, Lagrangian, target_at
from sottovoce.train import checkpoint, live, optim
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Stage
from sottovoce.train.run import Run
from sottovoce.train.track import Meter

Saved = dict[str, Any]  # a checkpoint, as `checkpoint.load` gives it
PATIENCE = 20  # updates in a row without a finite gradient before a run gives up


def fit(run: Run, name: str, stage: Stage, learner: Learner, budget: Budget | None, saved: Saved | None) -> dict[str, float]:
    """Trains `learner` for ``stage.steps`` updates, from where `saved`, this stage's checkpoint, stands; the last logged values.

    One update: draw masks, count frames globally, teacher and student forward, sum of objectives, backward, budget term, clip, step.
    """
    world, recipe, stream = run.world, run.recipe, run.stream(name)
    lagrangian = Lagrangian().to(world.device)
    ramp_from = 0.0 if budget is None else budget.start  # of the student as the stage began, whatever is cut live
    if saved is not None and saved["kept"]:
        budget = live.cut(learner, saved["kept"], budget)
    optimizer = live.optimizer_of(learner, lagrangian, stage, recipe.pruning)
    start, before = 0, 0.0 if saved is None else float(saved["seconds"])
    opened = time.monotonic()
    if saved is not None:
        start = _restore(run, saved, learner, lagrangian, optimizer, stream)
    run.journal.rewind(name, start)
    log: dict[str, float] = {}
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=world.device))
    heard, spans, last_save, lost, began = 0.0, 0, time.monotonic(), 0, time.monotonic()
    learner.train()
    with Meter(name, stage.steps, start) if world.main else contextlib.nullcontext() as meter:
        for step in range(start, stage.steps):
            optim.set_rates(optimizer, optim.schedule(step, stage))
            drawn = [learner.draw(next(stream)) for _ in range(stage.accumulate)]
            counts = world.sum(torch.stack([learner.denominators(each) for each in drawn]).sum(0)).clamp(min=1)
            for each in drawn:
                with run.autocast():
                    losses = learner(each, learner.targets(each))
                total = learner.total(losses, counts)
                total.backward()
                sums["loss"] += total.detach()
                for i, (part, loss) in enumerate(losses.items()):
                    for key, value in loss.logs.items():
                        sums[key if len(losses) == 1 else f"{part}/{key}"] += value / counts[i]
                heard += each.batch.seconds
            world.sum_gradients(learner.parameters())
            gates = learner.student.gates if isinstance(learner.student, GatedEncoder) else None
            if gates is not None and budget is not None:
                sparsity = budget.sparsity(gates)
                target = target_at(step, recipe.pruning.ramp, budget.goal, ramp_from)
                lagrangian(sparsity, target).backward()
            norms = optim.clip(optimizer, stage.clip)
            if all(torch.isfinite(norm) for norm in norms.values()):
                optimizer.step()
                if gates is not None and budget is not None and recipe.pruning.restarts:
                    lagrangian.restart(sparsity, target, optimizer)
                lost = 0
            else:  # bf16 overflow or a broken recording; the same on every process, because the gradients were summed
                lost += 1
                if lost == PATIENCE:
                    raise ValueError(
                        f"{name}: no finite gradient for {PATIENCE} updates (step {step}); lower stages.{name}.lr or check the data"
                    )
            optimizer.zero_grad(set_to_none=True)
            spans += 1
            if budget is not None and live.due(step + 1, recipe.pruning):
                optimizer, budget = live.step(learner, lagrangian, stage, recipe.pruning, optimizer, budget)

            last = step + 1 == stage.steps
            if (step + 1) % recipe.log_every == 0 or last:
                values = {key: float(world.sum(value)) / spans for key, value in sums.items()}
                took = time.monotonic() - began
                log = {
                    **values,
                    "lr": optim.schedule(step, stage) * stage.lr,
                    "norm": float(norms["weights"]),
                    "audio_per_s": float(world.sum(torch.tensor(heard, device=world.device))) / took,
                }
                if gates is not None and budget is not None:
                    multipliers = {name: float(value.detach()) for name, value in lagrangian.named_parameters()}
                    log |= {"sparsity": float(sparsity.detach()), "target": target, **multipliers}
                if world.main:
                    run.journal.write(name, step + 1, log)
                    assert meter is not None
                    note = f"loss {log['loss']:.4f}" + (
                        f"  sparsity {log['sparsity']:.3f}/{log['target']:.3f}" if gates is not None else ""
                    )
                    meter.update(step + 1, f"{note}  {log['audio_per_s']:.0f} s audio/s")
                sums.clear()
                heard, spans, began = 0.0, 0, time.monotonic()
            if (step + 1) % recipe.valid_every == 0 or last:
                found = validate(run, learner)
                log |= found
                if world.main and found:
                    run.journal.write(name, step + 1, found)
            stop = world.any(run.stop)
            due = world.any(world.main and time.monotonic() - last_save >= recipe.save_minutes * 60)
            if (stop or due) and not last:
                _save(run, name, step + 1, before + time.monotonic() - opened, learner, lagrangian, optimizer, stream)
                last_save = time.monotonic()
            if stop and not last:
                run.stopped(f"at update {step + 1} of {name}")
    return {**log, "train_seconds": round(before + time.monotonic() - opened, 1)}


@torch.no_grad()
def validate(run: Run, learner: Learner) -> dict[str, float]:
    """Mean loss over the held-out batches, with the gates as they would be cut. Leaves the random generators as they were."""
    before = checkpoint.random_state()
    torch.manual_seed(0)  # the same masks at every validation
    learner.eval()
    totals: dict[str, Tensor] = {}
    counts = torch.zeros(len(learner.objectives), device=run.world.device)
    for batch in run.data.valid:
        drawn = learner.draw(batch)
        counts += learner.denominators(drawn)
        with run.autocast():
            losses = learner(drawn, learner.targets(drawn))
        for part, loss in losses.items():
            totals[part] = totals.get(part, torch.zeros_like(loss.total)) + loss.total
            for key, value in loss.logs.items():
                totals[f"{part}/{key}"] = totals.get(f"{part}/{key}", torch.zeros_like(value)) + value
    learner.train()
    checkpoint.set_random_state(before)
    if not totals:
        return {}
    share = dict(zip(learner.objectives, counts.clamp(min=1), strict=True))
    means = {key: float(value / share[key.split("/")[0]]) for key, value in totals.items()}
    total = sum(learner.weights[part] * means[part] for part in learner.objectives)
    short = {key: key.split("/")[1] if len(learner.objectives) == 1 else key for key in means if "/" in key}
    return {"valid/loss": total, **{f"valid/{short[key]}": means[key] for key in short}}


def _save(
    run: Run,
    name: str,
    step: int,
    seconds: float,
    learner: Learner,
    lagrangian: Lagrangian,
    optimizer: torch.optim.Optimizer,
    stream: Stream,
) -> None:
    mine = {"random": checkpoint.random_state(), "stream": stream.state()}  # ranks pass over different broken recordings
    ranks: list[Any] = [mine]
    if run.world.size > 1:
        ranks = [None] * run.world.size
        torch.distributed.all_gather_object(ranks, mine)
    if run.world.main:
        state = {
            "stage": name,
            "step": step,
            "seconds": seconds,
            "learner": learner.state_dict(),
            "kept": learner.kept,
            "lagrangian": lagrangian.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ranks": ranks,
        }
        checkpoint.save(run.checkpoint, state)
    run.world.wait()


def _restore(
    run: Run, saved: Saved, learner: Learner, lagrangian: Lagrangian, optimizer: torch.optim.Optimizer, stream: Stream
) -> int:
    """Puts everything back as it was; the update that was reached."""
    if len(saved["ranks"]) != run.world.size:
        raise ValueError(f"this run was started by {len(saved['ranks'])} processes and can only be resumed by as many")
    mine = saved["ranks"][run.world.rank]
    learner.load_state_dict(saved["learner"])
    lagrangian.load_state_dict(saved["lagrangian"])
    optimizer.load_state_dict(saved["optimizer"])
    stream.load(mine["stream"])
    checkpoint.set_random_state(mine["random"])
    run.say(f"{saved['stage']}: going on from update {saved['step']}")
    return int(saved["step"])
