"""The training loop."""

from __future__ import annotations

import contextlib
import time

import torch
from torch import Tensor

from sottovoce.train import checkpoint, optim
from sottovoce.train.learner import Learner
from sottovoce.train.run import Run
from sottovoce.train.state import Diverged, TrainState
from sottovoce.train.track import Meter, Tally

PATIENCE = 20  # updates in a row without a finite gradient before a run gives up


def fit(run: Run, state: TrainState) -> dict[str, float]:
    """Trains ``state.learner`` from update ``state.step`` to the end of its stage. Returns the last logged values.

    `Diverged`, a ValueError, if `PATIENCE` updates in a row have no finite gradient, or if weights are not finite at the end.
    """
    world, recipe, config, label = run.world, run.recipe, state.config, state.label
    run.resume_journal(label, state.rows, state.step)
    log: dict[str, float] = {}
    saved_at = time.monotonic()
    state.learner.train()
    with Meter(label, config.steps, state.step, run.updates_after(label)) if world.main else contextlib.nullcontext() as meter:
        while state.step < config.steps:
            rate = optim.schedule(state.step, config)
            norm = update(run, state, rate)
            if state.lost_in_row == PATIENCE:  # alike on every process, because the gradients were summed
                raise Diverged(label, f"no finite gradient for {PATIENCE} updates, the last of them update {state.step}")
            last = state.step == config.steps
            if state.step % recipe.log_every == 0 or last:
                added = state.phase.logs()
                log = {**state.tally.means(), "lr": rate * config.lr, "norm": norm, **added}
                log |= {"audio_per_s": state.tally.audio_per_s(), **({"lost_updates": state.lost} if state.lost else {})}
                run.journal.write(label, state.step, log)
                if meter is not None:
                    notes = "".join(f"  {key} {value:.3f}" for key, value in added.items())
                    meter.update(state.step, f"loss {log['loss']:.4f}{notes}  {log['audio_per_s']:.0f} s audio/s")
                state.tally = Tally(world)
            if state.step % recipe.valid_every == 0 or last:
                held_out = validate(run, state.learner)
                run.journal.write(label, state.step, held_out)
                log |= held_out
            stop = world.any(run.stop)
            due = world.any(world.main and time.monotonic() - saved_at >= recipe.save_minutes * 60)
            if (stop or due) and not last:
                state.save(run.checkpoints, run.journal.rows.get(label, []))
                saved_at = time.monotonic()
            if stop and not last:
                run.stopped(f"at update {state.step} of {label}")
    if state.lost:
        run.say(f"{label}: {state.lost} of {config.steps} updates were left out, because their gradients were not finite")
    state.check_finite()
    return {**log, "train_seconds": round(state.seconds, 1)}


def update(run: Run, state: TrainState, rate: float) -> float:
    """Makes one update of the weights. Returns the norm of their gradient.

    rate: share of the peak learning rates. If a gradient is not finite (an overflow in bf16, a broken recording), nothing changes and
    ``state.lost`` counts the update.
    """
    world, learner, optimizer, tally = run.world, state.learner, state.optimizer, state.tally
    optim.set_rates(optimizer, rate)
    drawn = [learner.draw(next(state.stream)) for _ in range(state.accumulate)]
    with run.autocast():
        drawn = [learner.listen(each) for each in drawn]
    denominators = world.sum(torch.stack([learner.denominators(each) for each in drawn]).sum(0)).clamp(min=1)
    for each in drawn:
        with run.autocast():
            losses = learner(each, learner.targets(each))
        total = learner.total(losses, denominators)
        total.backward()
        tally.add(total.detach(), losses, denominators, each.batch.seconds)
    tally.updates += 1
    world.sum_gradients(learner.parameters())
    penalty = state.phase.penalty(state.step)
    if penalty is not None:
        penalty.backward()
    norms = optim.clip(optimizer, state.config.clip)
    finite = all(torch.isfinite(norm) for norm in norms.values())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.lost += not finite
    state.lost_in_row = 0 if finite else state.lost_in_row + 1
    if finite:
        state.phase.after_update(state)
    return float(norms["weights"])


@torch.no_grad()
def validate(run: Run, learner: Learner) -> dict[str, float]:
    """Mean loss over the held-out batches, with the student in evaluation mode. Leaves the random generators as they were."""
    before = checkpoint.random_state()
    torch.manual_seed(0)  # the same masks at every validation
    learner.eval()
    totals: dict[str, Tensor] = {}
    counts = torch.zeros(len(learner.objectives), device=run.world.device)
    for batch in run.data.valid:
        drawn = learner.draw(batch)
        with run.autocast():
            drawn = learner.listen(drawn)
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
