"""Runs the stages of a run in order. Each writes one JSON and hands a `Work` to the next; finished stages are skipped."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import torch

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.train.keeping import announcement
from sottovoce.train.recipe import Recipe
from sottovoce.train.run import Run
from sottovoce.train.scores import inherited
from sottovoce.train.stages.base import Stage
from sottovoce.train.track import duration
from sottovoce.train.work import Work

WEIGHTS = "weights"  # in the JSON of a stage: SHA-256 of the student's file


def run_stages(run: Run) -> Work:
    """Runs the stages that are not finished. Returns the work of the last one.

    ValueError, before any training, if a stage cannot do what its recipe asks.
    """
    stages = run.recipe.build_stages()
    finished = list(takewhile(lambda stage: run.done(stage.label) is not None, stages))
    finished, work = last_work(run, finished)
    run.forget(stage.label for stage in stages[len(finished) :])
    run.check_journal()
    for stage in stages[len(finished) :]:
        stage.prepare(work, run.teachers)
    if told := announcement(run, work.encoder.config):
        run.say(told)
    for number, stage in enumerate(stages[len(finished) :], len(finished) + 1):
        if run.world.any(run.stop):
            run.stopped(f"before {stage.label}")
        torch.manual_seed(run.recipe.seed + 7919 * number + run.world.rank)
        run.say(f"stage {stage.label}")
        began = time.monotonic()
        work, results = stage.perform(run, work)
        if run.world.main and stage.changes:
            results[WEIGHTS] = work.save(work_file(run, stage))
        took = time.monotonic() - began
        run.finish(stage.label, {"stage": stage.label, "kind": stage.name, "seconds": round(took, 1), **results})
        run.say(f"stage {stage.label} done in {duration(took)}")
    return work


def work_file(run: Run, stage: Stage) -> Path:
    """The file of the student after a stage."""
    return run.folder / f"{stage.label}.safetensors"


def last_work(run: Run, finished: list[Stage]) -> tuple[list[Stage], Work]:
    """What the last finished stage that changes the student has left, and the stages until then and after it that need not be done again.

    A stage whose file is missing or damaged is done again, with those after it.
    """
    for stage in reversed([stage for stage in finished if stage.changes]):
        path = work_file(run, stage)
        work = Work.load(path, (run.done(stage.label) or {}).get(WEIGHTS))
        if work is not None:
            return finished, work
        run.say(f"{path} is damaged or missing: {stage.label} is done again")
        finished = finished[: finished.index(stage)]
    return finished, initial_work(run)


def first_student(recipe: Recipe, origin: Pretrained | None) -> Encoder:
    """The student at its start, with the recipe's context. ValueError if it cannot run under it."""
    encoder = recipe.student.build().build(origin)
    context = recipe.context.frames(encoder.config.frontend.stride)
    if context is not None:
        encoder.config = replace(encoder.config, context=context)
    return encoder


def initial_work(run: Run) -> Work:
    """The untrained student, the same in every process."""
    torch.manual_seed(run.recipe.seed)
    encoder = first_student(run.recipe, run.teachers.origin)
    run.world.share(encoder.to(run.world.device).state_dict().values())
    return Work(encoder.cpu().requires_grad_(True), objectives=dict(inherited(run)))
