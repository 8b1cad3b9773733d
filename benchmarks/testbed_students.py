"""The students of the testbed's table: trained from one teacher on the same data, for as many updates, and measured on every task.

    python benchmarks/testbed_students.py --teacher demo --train train.tsv --speech FOLDER --work DIR --out results/testbed

For each budget (parameters and MACs at 50, 25 and 15 % of the teacher) and seed: DPHuBERT (recipe dphubert-demo) and a student of the same
shape from random start (recipe layer-to-layer-random); and DistilHuBERT (first two layers and prediction heads) beside a DPHuBERT student
of its MACs. The seed of a student is also that of its probes. What is trained or measured already is not done again; `--only dphubert-macs`
takes those whose names start so, `--jobs` measures so many tasks at a time, `--share 0/2` takes every second row and leaves the others to a
process with `1/2` (for CoLLD's table; here some rows need others). Teacher and controls are measured by `sottovoce evaluate`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sottovoce
from sottovoce.encoder import EncoderConfig
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import encoder_cost, total
from sottovoce.train import api
from sottovoce.train.recipe import Recipe, load_recipe

KEEPS = (0.5, 0.25, 0.15)


@dataclass(frozen=True)
class Setting:
    """What all students of the table have in common."""

    teacher: str
    train: str
    work: Path
    steps: int | None
    overrides: tuple[str, ...]

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
            f"stages.{stage}.lr={recipe.stages['distill'].lr}",
            f"stages.{stage}.warmup={round(recipe.steps * 0.1)}",
            *(f"data.{key}={getattr(recipe.data, key)}" for key in sizes),
        ]


def dphubert(setting: Setting, unit: str, keep: float, seed: int) -> api.Result:
    return setting.compress(
        f"dphubert-{unit}-{keep * 100:.0f}", seed, "dphubert-demo", [], budget=unit, keep=keep, steps=setting.steps
    )


def from_random_start(setting: Setting, unit: str, keep: float, seed: int) -> api.Result:
    """A student of the shape that DPHuBERT found with this seed."""
    like = dphubert(setting, unit, keep, seed).out
    extra = [f"student.like={like}", *setting.alike("distill")]
    return setting.compress(f"random-{unit}-{keep * 100:.0f}", seed, "layer-to-layer-random", extra)


def distilhubert(setting: Setting, seed: int) -> api.Result:
    return setting.compress("distilhubert", seed, "distilhubert", setting.alike("distill"))


def share_of(student: EncoderConfig, teacher: EncoderConfig) -> float:
    """The student's MACs over the teacher's."""
    ours, theirs = (total(encoder_cost(each)).macs for each in (student, teacher))
    return round(float(ours) / float(theirs), 4)


def equal_macs(setting: Setting, seed: int) -> api.Result:
    """DPHuBERT at the share of MACs that the first two layers and the front end take."""
    models = (distilhubert(setting, seed).out, setting.teacher)
    return dphubert(setting, "macs", share_of(*(load_pretrained(each).shape for each in models)), seed)


Row = tuple[str, int, Callable[[], api.Result]]  # name, seed, how to get the student


def table(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    """Every row; a seed's rows together, so that an early end leaves whole comparisons."""
    for seed in seeds:
        for unit in ("macs", "params"):
            for keep in KEEPS:
                share = f"{unit}-{keep * 100:.0f}"
                yield f"dphubert-{share}", seed, partial(dphubert, setting, unit, keep, seed)
                yield f"random-{share}", seed, partial(from_random_start, setting, unit, keep, seed)
        yield "distilhubert", seed, partial(distilhubert, setting, seed)
        yield "equal-macs", seed, partial(equal_macs, setting, seed)


def arguments(about: str | None) -> argparse.ArgumentParser:
    """What every script that trains and measures students wants to be told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="demo")
    parser.add_argument("--train", required=True, help="manifest of what students are trained on")
    parser.add_argument("--speech", default="", help="folder of the testbed's corpora; without it students are only trained")
    parser.add_argument("--work", type=Path, required=True, help="folder for the students")
    parser.add_argument("--out", type=Path, help="folder of the results")
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


def carry_out(options: argparse.Namespace, rows: Iterator[Row]) -> None:
    """Trains and measures every row, one after another."""
    number, count = options.share
    wanted = [row for row in rows if row[0].startswith(tuple(options.only))]
    for _, seed, get in wanted[number::count]:
        began = time.monotonic()
        student = get().out
        print(f"{student.name}: trained in {time.monotonic() - began:.0f} s", flush=True)
        if not options.speech:
            continue
        measure = partial(
            sottovoce.evaluate,
            [str(student)],
            data=options.data,
            out=options.out,
            root=options.speech,
            seeds=[seed],
            cache=options.cache,
            jobs=options.jobs,
            say=partial(print, flush=True),
        )
        measure(tasks=options.tasks)
        if options.data == "testbed":
            measure(tasks=["fidelity"], vs=[options.teacher])


def setting_of(options: argparse.Namespace) -> Setting:
    return Setting(options.teacher, options.train, options.work, options.steps, tuple(options.overrides))


def main() -> None:
    options = arguments(__doc__).parse_args()
    carry_out(options, table(setting_of(options), options.seeds))


if __name__ == "__main__":
    main()
