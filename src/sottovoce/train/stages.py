"""The stages of a run, in the recipe's order. A finished stage is not done again; each writes one JSON and hands a `Work` to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from sottovoce.core.registry import STUDENTS, TASKS
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import Budget, GatedEncoder, PruningConfig, composed, encoder_cost, hit, open_units, total
from sottovoce.train import needs
from sottovoce.train.learner import Learner
from sottovoce.train.loop import fit
from sottovoce.train.recipe import Stage
from sottovoce.train.run import Run
from sottovoce.train.track import duration
from sottovoce.train.work import Work


def carry_out(run: Run) -> Work:
    """All stages of the run's recipe; what the last one leaves."""
    work: Work | None = None
    for name, stage in run.recipe.stages.items():
        path = run.folder / f"{name}.safetensors"
        if run.done(name) is not None:
            if stage.kind != "evaluate":
                if not path.exists():
                    raise ValueError(f"{path} is missing, though the stage is done; put it back, or use --fresh to start over")
                work = Work.load(path)
            continue
        if run.world.any(run.stop):
            run.stopped(f"before {name}")
        work = first(run) if work is None else work
        torch.manual_seed(run.recipe.seed + 7919 * (1 + list(run.recipe.stages).index(name)) + run.world.rank)
        run.say(f"stage {name}")
        began = time.monotonic()
        work, report = KINDS[stage.kind](run, name, stage, work)
        if run.world.main and stage.kind != "evaluate":
            work.save(path)
        took = time.monotonic() - began
        run.finish(name, {"stage": name, "kind": stage.kind, "seconds": round(took, 1), **report})
        run.say(f"stage {name} done in {duration(took)}")
    assert work is not None
    return work


def first(run: Run) -> Work:
    """The student before any training, the same on every process and whichever stage asks."""
    torch.manual_seed(run.recipe.seed)
    encoder = STUDENTS.get(run.recipe.student.name)(run.recipe.student.config).build(run.teacher)
    run.world.share(encoder.to(run.world.device).state_dict().values())
    return Work(encoder.cpu().requires_grad_(True))


def gate(pruning: PruningConfig, encoder: Encoder, teacher: EncoderConfig | None) -> tuple[GatedEncoder, Budget]:
    """Gates on `encoder`, and the budget; ValueError when it cannot be met.

    The budget counts from the teacher, or from the encoder itself where the teacher has no shape that is known.
    """
    gated = GatedEncoder(encoder, pruning.units, pruning.gates)
    return gated, Budget(pruning.budget, gated.encoder.config, gated.plan, teacher or whole(encoder.config))


def train(run: Run, name: str, stage: Stage, work: Work) -> tuple[Work, dict[str, Any]]:
    wanted = {part: spec for part, spec in run.recipe.objectives.items() if not stage.objectives or part in stage.objectives}
    learner = Learner(work.encoder, wanted, run.teachers, run.recipe.masking, run.recipe.augment)
    budget = None
    if stage.prune:
        learner.student, budget = gate(run.recipe.pruning, work.encoder, run.teachers.config)
    begun = learner.encoder.config
    wanted_memory = needs.estimate(run.recipe, work.encoder, run.teachers.config, run.world.device)
    run.say(wanted_memory.text(run.recipe.data.seconds_per_batch))
    if warning := wanted_memory.warning(needs.free_memory(run.world.device)):
        run.say(warning)
    learner.to(run.world.device)
    if run.recipe.compile and not stage.prune:  # under gates, shapes differ from update to update
        # as a function: the compiled module would become one of the learner's
        learner.compiled = torch.compile(learner.student.forward, dynamic=True)
    saved = run.saved(name)
    learner.recall(work.objectives)
    if saved is None:
        learner.fit(lambda: run.stream(name), work.objectives)
    run.world.share(learner.state_dict().values())
    log = fit(run, name, stage, learner, budget, saved)
    learner.cpu().eval()
    gates = learner.student.gates.state_dict() if isinstance(learner.student, GatedEncoder) else {}
    extras = {key: value for key, value in learner.state_dict().items() if not key.startswith("student.")}
    made = Work(learner.encoder, gates, {**work.objectives, **extras})
    if learner.kept:
        made.kept, made.whole = learner.kept, begun
    return made, {"updates": stage.steps, **log}


def cutting(run: Run, name: str, stage: Stage, work: Work) -> tuple[Work, dict[str, Any]]:
    """Makes the gates' choice physical, after moving them all by as little as meets the budget exactly."""
    if not work.gates:
        raise ValueError(f"stage '{name}' cuts, but no stage before it pruned; set prune: true on one")
    gated, budget = gate(run.recipe.pruning, work.encoder, run.teachers.config)
    gated.gates.load_state_dict(work.gates)
    report = hit(gated.gates, budget)
    values = gated.gates.evaluate()
    encoder = gated.cut(values)
    run.say(report.text)
    if report.warning:
        run.say(report.warning)
    found = {"budget": {**asdict(report), "text": report.text}, "cost": cost_of(encoder)}
    return Work(encoder, {}, work.objectives), {**found, "kept": composed(work.kept, open_units(gated.plan, values))}


def whole(config: EncoderConfig) -> EncoderConfig:
    """The shape without the scales that gates on the positional convolution add: what the budget counts from."""
    position = config.position
    if position is not None and position.kept is not None and len(position.kept) == position.groups:
        return replace(config, position=replace(position, kept=None))
    return config


def evaluate(run: Run, name: str, stage: Stage, work: Work) -> tuple[Work, dict[str, Any]]:
    """The stage's tasks on the held-out recordings, beside the teacher."""
    found: dict[str, Any] = {"cost": cost_of(work.encoder)}
    batches = [run.prepare(batch) for batch in run.data.valid]
    if run.teacher is None or not batches:
        run.say(f"{name}: nothing is measured, because there is no {'teacher' if run.teacher is None else 'held-out audio'}")
        return work, found
    found["held_out_seconds"] = round(sum(batch.seconds for batch in batches), 1)
    encoder = work.encoder.to(run.world.device).eval()
    for task in stage.tasks:
        cls = TASKS.get(task)
        found[task] = cls(cls.Config()).run(encoder, run.teacher.encoder, batches)
    work.encoder.cpu()
    return work, found


def cost_of(encoder: Encoder) -> dict[str, float]:
    """Parameters, and multiply-accumulates per second of audio."""
    cost = total(encoder_cost(encoder.config))
    return {"params": float(cost.params), "macs_per_s": float(cost.macs)}


KINDS: dict[str, Callable[[Run, str, Stage, Work], tuple[Work, dict[str, Any]]]] = {
    "train": train,
    "cut": cutting,
    "evaluate": evaluate,
}
