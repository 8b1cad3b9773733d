"""What the experiments with students share: how a student is trained, and how all of a table are trained and measured, one after another.

A student that is trained already, or a task that is measured already, is not done again, so every command can be repeated until it is done.
Records go into the ``records.jsonl`` of the experiment's folder (``--out``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import sottovoce
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import encoder_cost, total
from sottovoce.train import api
from sottovoce.train.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Setting:
    """What all students of a table have in common. work: the folder for their runs. steps: of the whole schedule; None for the recipe's."""

    teacher: str
    train: str
    work: Path
    steps: int | None
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Setting:
        return cls(options.teacher, options.train, options.work, options.steps, tuple(options.overrides))

    @property
    def recipe(self) -> Recipe:
        """DPHuBERT's, whose schedule and data the others take over."""
        return load_recipe("dphubert-demo", self.overrides, self.steps)

    def compress(self, name: str, seed: int, recipe: str, extra: list[str], **options: Any) -> api.Result:
        """The student, trained now if it is not yet."""
        out = self.work / f"{name}-seed{seed}"
        every = [*self.overrides, *extra]
        return api.compress(self.teacher, recipe=recipe, data=self.train, out=out, seed=seed, overrides=every, **options)

    def alike(self, stage: str) -> list[str]:
        """Overrides that give a recipe with the one training stage `stage` DPHuBERT's updates, rate and data."""
        recipe = self.recipe
        sizes = ("seconds_per_batch", "min_seconds", "max_seconds", "crop", "valid_share")
        return [
            f"stages.{stage}.steps={recipe.steps}",
            f"stages.{stage}.lr={recipe.stages['distill'].config.lr}",
            f"stages.{stage}.warmup={round(recipe.steps * 0.1)}",
            *(f"data.{key}={getattr(recipe.data, key)}" for key in sizes),
        ]


def dphubert(setting: Setting, unit: str, keep: float, seed: int) -> api.Result:
    """DPHuBERT with a budget of `keep` of the teacher's `unit`."""
    name = f"dphubert-{unit}-{keep * 100:.0f}"
    return setting.compress(name, seed, "dphubert-demo", [], budget=unit, keep=keep, steps=setting.steps)


def from_random_start(setting: Setting, unit: str, keep: float, seed: int) -> api.Result:
    """A student of the shape that DPHuBERT found with this seed, distilled from random weights."""
    like = dphubert(setting, unit, keep, seed).out
    extra = [f"student.like={like}", *setting.alike("distill")]
    return setting.compress(f"random-{unit}-{keep * 100:.0f}", seed, "layer-to-layer-random", extra)


def share_of(student: EncoderConfig, teacher: EncoderConfig) -> float:
    """The student's MACs over the teacher's."""
    ours, theirs = (total(encoder_cost(each)).macs for each in (student, teacher))
    return round(float(ours) / float(theirs), 4)


class Made(Protocol):
    """A student. out: its folder."""

    @property
    def out(self) -> Path: ...


Row = tuple[str, int, Callable[[], Made]]  # name, seed, how to get the student


def arguments(about: str | None, file: str) -> argparse.ArgumentParser:
    """The options of an experiment with students. about, file: the docstring and the path of its ``run.py``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="demo")
    parser.add_argument("--train", required=True, help="manifest of what students are trained on")
    parser.add_argument("--speech", default="", help="folder of the testbed's corpora; without it students are only trained")
    parser.add_argument("--work", type=Path, required=True, help="folder for the students")
    parser.add_argument("--out", type=Path, default=Path(file).parent, help="folder of the records; by default the experiment's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--only", nargs="+", default=[""], help="starts of the names to do")
    parser.add_argument("--share", type=share, default=(0, 1), help="which of the rows, e.g. 0/2 and 1/2 for two processes")
    parser.add_argument("--data", default="testbed", help="task file")
    parser.add_argument("--tasks", nargs="+", default=["all"])
    parser.add_argument("--cache", default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    return parser


def share(text: str) -> tuple[int, int]:
    """ "1/3" -> (1, 3)."""
    number, count = map(int, text.split("/"))
    if not 0 <= number < count:
        raise ValueError
    return number, count


def train_and_measure(options: argparse.Namespace, rows: Iterable[Row]) -> None:
    """Trains and measures every row, one after another. The seed of a student is also that of its probes."""
    number, count = options.share
    wanted = [row for row in rows if row[0].startswith(tuple(options.only))]
    for _, seed, get in wanted[number::count]:
        began = time.monotonic()
        student = get().out
        print(f"{student.name}: trained in {time.monotonic() - began:.0f} s", flush=True)
        if options.speech:
            measure(options, str(student), seed)


def measure(options: argparse.Namespace, model: str, seed: int, overrides: Sequence[str] = ()) -> None:
    """The model on the tasks that were asked for, and, on the testbed, its likeness to the teacher."""
    evaluate = partial(
        sottovoce.evaluate,
        [model],
        data=options.data,
        out=options.out,
        root=options.speech,
        seeds=[seed],
        cache=options.cache,
        jobs=options.jobs,
        overrides=overrides,
        say=partial(print, flush=True),
    )
    evaluate(tasks=options.tasks)
    if options.data == "testbed":
        evaluate(tasks=["fidelity"], vs=[options.teacher])
