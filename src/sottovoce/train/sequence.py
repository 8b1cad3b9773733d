"""The stages of a run, one after another. A finished stage is not done again; each writes one JSON and hands a `Work` to the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import torch

from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.track import duration
from sottovoce.train.work import Work


def run_stages(run: Run) -> Work:
    """Performs the stages of the run's recipe that are not finished. Returns what the last one leaves.

    ValueError before any training when one of them can never do what is asked.
    """
    stages = run.recipe.build_stages()
    finished = list(takewhile(lambda stage: run.done(stage.label) is not None, stages))
    work = last_work(run, finished) or initial_work(run)
    for stage in stages[len(finished) :]:
        stage.prepare(work, run.teachers)
    for number, stage in enumerate(stages[len(finished) :], len(finished) + 1):
        if run.world.any(run.stop):
            run.stopped(f"before {stage.label}")
        torch.manual_seed(run.recipe.seed + 7919 * number + run.world.rank)
        run.say(f"stage {stage.label}")
        began = time.monotonic()
        work, results = stage.perform(run, work)
        if run.world.main and stage.changes:
            work.save(work_file(run, stage))
        took = time.monotonic() - began
        run.finish(stage.label, {"stage": stage.label, "kind": stage.name, "seconds": round(took, 1), **results})
        run.say(f"stage {stage.label} done in {duration(took)}")
    return work


def work_file(run: Run, stage: Stage) -> Path:
    """Where the student lies as a stage left it."""
    return run.folder / f"{stage.label}.safetensors"


def last_work(run: Run, finished: Sequence[Stage]) -> Work | None:
    """What the last finished stage that changes the student has left."""
    paths = [work_file(run, stage) for stage in finished if stage.changes]
    if not paths:
        return None
    if not paths[-1].exists():
        raise ValueError(f"{paths[-1]} is missing, though the stage is done; put it back, or use --fresh to start over")
    return Work.load(paths[-1])


def initial_work(run: Run) -> Work:
    """The student before any training, the same on every process and whichever stage asks."""
    torch.manual_seed(run.recipe.seed)
    encoder = run.recipe.student.build().build(run.teachers.origin)
    run.world.share(encoder.to(run.world.device).state_dict().values())
    return Work(encoder.cpu().requires_grad_(True))
