"""Trains and measures students of real recognisers: every method for as long, at the same share of the encoder's MACs.

    python -m experiments.real_teachers.students --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR --pace
    python -m experiments.real_teachers.students --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR

`--pace` times a few updates of each method, on a machine that does nothing else. `--minutes` of training are then so many updates, so a
busy machine takes longer and changes nothing else. Names are METHOD-SHARE; `--only dphubert-50` takes those that start so. Every student
is put back into its recogniser and transcribes (`tasks.yaml`); `--probes` also probes its encoder, by tasks of the testbed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.students import Row, Setting, arguments, train_and_measure
from sottovoce.core import ledger
from sottovoce.train import api

FOLDER = Path(__file__).parent
PACED = 60  # updates that are timed
SHARES = (50, 75, 25)
PROBES = ("pr", "ks-arabic", "sid", "er", "qbe")  # phones, words, speakers, emotions, queries
# Sizes of narrow students of Moonshine tiny, by their share of its MACs: about as many as the budgets of the others.
NARROW = {
    75: ("dim=248", "heads=7", "ffn_dim=960", "conv_dims=[240,480]"),
    50: ("dim=200", "heads=5", "ffn_dim=816", "conv_dims=[200,400]"),
    25: ("dim=136", "heads=3", "ffn_dim=576", "conv_dims=[136,288]"),
}
HOST = ("objectives.host_output.weight=1",)


@dataclass(frozen=True)
class Method:
    """How students are made. recipe: a shipped one, or a file of this folder. sizes: its student has the size of `NARROW`; else it
    meets a budget, if `prunes`. trains: false for methods without updates."""

    recipe: str
    overrides: tuple[str, ...] = ()
    prunes: bool = True
    sizes: bool = False
    trains: bool = True
    shares: tuple[int, ...] = (50,)


METHODS: Mapping[str, Method] = {
    "dphubert": Method("dphubert-minutes.yaml", shares=SHARES),
    "liteasr": Method("liteasr-minutes.yaml", trains=False, shares=SHARES),
    "liteasr-repaired": Method("liteasr-repaired-minutes.yaml", shares=SHARES),
    "plain": Method("plain-minutes.yaml", prunes=False, sizes=True),
    "sotto": Method("sotto-minutes.yaml"),
    "colld": Method("colld-minutes.yaml", prunes=False, sizes=True),
    "distilhubert": Method("distilhubert-minutes.yaml", prunes=False),
    "dphubert-host": Method("dphubert-minutes.yaml", HOST, shares=SHARES),
    "plain-host": Method("plain-minutes.yaml", HOST, prunes=False, sizes=True),
}


def student(setting: Setting, steps: Mapping[str, int], name: str, share: int, seed: int) -> api.Result:
    """The student of method `name` with `share` per cent of the teacher's MACs."""
    method = METHODS[name]
    sizes = [f"student.{size}" for size in NARROW[share]] if method.sizes else []
    budget: dict[str, Any] = {"budget": "macs", "keep": share / 100} if method.prunes else {}
    recipe = str(FOLDER / "recipes" / method.recipe)
    updates = steps[name] if method.trains else None
    return setting.compress(f"{name}-{share}", seed, recipe, [*method.overrides, *sizes], steps=updates, **budget)


def pace(setting: Setting, out: Path, only: tuple[str, ...]) -> None:
    """Records how many seconds an update of each method takes."""
    for name, method in METHODS.items():
        if not method.trains or not name.startswith(only):
            continue
        folder = setting.work / "pace"
        timed = Setting(setting.teacher, setting.train, folder, None, (*setting.overrides, "data.keep_targets=0"))
        result = student(timed, {name: PACED}, name, 50, seed=1)
        stages = [stage for stage in result.record["stages"] if "train_seconds" in stage]
        seconds = sum(stage["train_seconds"] for stage in stages) / sum(stage["updates"] for stage in stages)
        record = {**ledger.header("pace"), "name": name, "seconds_per_update": round(seconds, 4)}
        ledger.write(out / ledger.RECORDS, record)
        shutil.rmtree(folder)


def updates(out: Path, minutes: float) -> dict[str, int]:
    """By method: so many updates fill the minutes, by the last record of their pace."""
    paces = {row["name"]: row["seconds_per_update"] for row in ledger.read_all(out / ledger.RECORDS) if row["kind"] == "pace"}
    return {name: round(60 * minutes / seconds) for name, seconds in paces.items()}


def rows(setting: Setting, steps: Mapping[str, int], seeds: list[int]) -> Iterator[Row]:
    """Every student: those of half of the MACs first, and a seed's together, so that an early end leaves whole comparisons."""
    for share in SHARES:
        for seed in seeds:
            for name, method in METHODS.items():
                if share in method.shares:
                    yield f"{name}-{share}", seed, partial(student, setting, steps, name, share, seed)


def main() -> None:
    parser = arguments(__doc__, __file__)
    parser.add_argument("--pace", action="store_true", help="time a few updates of each method, and stop")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each student")
    parser.add_argument("--probes", action="store_true", help="also probe the students' encoders")
    parser.set_defaults(data=str(FOLDER / "tasks.yaml"), tasks=["librispeech", "speechocean"])
    options = parser.parse_args()
    setting = Setting.of(options)
    if options.pace:
        pace(setting, options.out, tuple(options.only))
        return
    every = list(rows(setting, updates(options.out, options.minutes), options.seeds))
    train_and_measure(options, every)
    if options.probes:
        options.data, options.tasks = "testbed", list(PROBES)
        train_and_measure(options, every)


if __name__ == "__main__":
    main()
