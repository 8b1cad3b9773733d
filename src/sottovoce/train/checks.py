"""Refuses runs that hardly anyone wants, unless the user asks for them by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sottovoce.encoder import Encoder
from sottovoce.pruning import encoder_cost, total
from sottovoce.timing.machine import peaks
from sottovoce.train.track import duration
from sottovoce.train.work import cost_of

if TYPE_CHECKING:
    from sottovoce.train.run import Run

PASSES = 20  # over the data that a message proposes; DPHuBERT makes 14 over LibriSpeech
MOST_PASSES = 100  # over the data that are allowed without --schedule recipe
FEWEST_UPDATES = 600  # that a message proposes; with fewer, gates have no time to move
LARGER = 1.02  # a student may cost this much more than its teacher
SHARE = 0.4  # of the machine's peak that training reaches, roughly


@dataclass(frozen=True)
class Permissions:
    """What the user has allowed. long: any number of passes over the data. larger: a student that costs more than its teacher."""

    long: bool = False
    larger: bool = False

    def check(self, run: Run) -> None:
        """ValueError if the run needs a permission that was not given. Called for a new run, when its teachers and data are open."""
        if not self.long:
            check_schedule(run)
        if not self.larger:
            check_size(run)


def check_schedule(run: Run) -> None:
    """ValueError if the recipe makes more than `MOST_PASSES` passes over the data. The message says how long they take and what to do."""
    recipe, seconds = run.recipe, run.data.hours * 3600
    passes = run.data.passes(sum(stage.batches for stage in recipe.build_stages()) * run.world.size)
    audio = passes * seconds
    if passes <= MOST_PASSES:
        return
    updates = max(FEWEST_UPDATES, round(recipe.steps * PASSES / passes))
    raise ValueError(
        f"the recipe '{recipe.name}' makes {recipe.steps:,} updates, which is {passes:,.0f} passes over {duration(seconds)} of audio"
        f"{_hours(run, audio)}; give --steps {min(updates, recipe.steps)} for a schedule that suits the data, or --schedule recipe for "
        "this one"
    )


def _hours(run: Run, audio: float) -> str:
    """The words for how long training on so many seconds of audio takes; "" where it is not known."""
    if run.world.device.type != "cpu" or run.teachers.config is None:
        return ""
    operations = 8 * audio * float(total(encoder_cost(run.teachers.config)).macs)  # teacher forward, student forward and backward
    took = operations / (SHARE * 1e9 * max(peaks(torch.get_num_threads()).values()) * run.world.size)
    return f" and takes about {duration(took)} on this machine"


def check_size(run: Run) -> None:
    """ValueError if the student has more parameters or MACs than its teacher."""
    recipe, teacher = run.recipe, run.teachers.origin
    if teacher is None or not isinstance(teacher.encoder, Encoder) or recipe.student.cls.is_teacher:
        return
    if any(stage.meets_budget for stage in recipe.build_stages()):  # the cut decides the size
        return
    ours, theirs = cost_of(recipe.student.build().build(teacher)), cost_of(teacher.encoder)
    larger = {name: ours[name] / theirs[name] for name in ours if ours[name] > LARGER * theirs[name]}
    if larger:
        raise ValueError(
            f"the student of '{recipe.name}' would have {_more(larger)} its teacher; choose a smaller shape (student.dim), "
            "a recipe that starts from the teacher (dphubert; dphubert-demo for a small one), or give --allow-larger"
        )


def _more(larger: Mapping[str, float]) -> str:
    names = {"params": "parameters", "macs_per_s": "compute"}
    return " and ".join(f"{factor:.1f} times the {names[name]}" for name, factor in larger.items()) + " of"
