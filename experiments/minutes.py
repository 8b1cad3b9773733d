"""Students of a real recogniser that are trained for as many minutes each: what the tables of several methods share.

`--pace` times a few updates of each method, on a machine that does nothing else. `--minutes` of training are then so many updates, so a
busy machine takes longer and changes nothing else. Names of students are METHOD-SHARE; `--only dphubert-50` takes those that start so.
With other minutes than ten they are METHOD-SHARE-MINUTESmin.
Every student is put back into its recogniser and transcribes (`real_teachers/tasks.yaml`); `--probes` also probes its encoder, by tasks
of the testbed. Commands go on where they stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from experiments.students import Row, Setting, arguments, train_and_measure
from sottovoce.core import ledger
from sottovoce.train import api

FOLDER = Path(__file__).parent
TASKS = FOLDER / "real_teachers" / "tasks.yaml"
PACED = 30  # updates that are timed
SHARES = (50, 75, 25)  # per cent of the teacher's MACs, the most telling first
MINUTES = 10.0
WHOLE = 100  # of methods that do not make the encoder smaller
PROBES = ("pr", "ks-arabic", "sid", "er", "qbe")  # phones, words, speakers, emotions, queries


@dataclass(frozen=True)
class Method:
    """How students are made. recipe: of ``recipes/RECIPE-minutes.yaml`` in the table's folder. prunes: it meets a budget. sizes: overrides
    for each share of the MACs, for methods that do not prune. trains: false for methods without updates. kept: whether updates are timed
    with targets that are computed already, where they are too dear for the minutes (Whisper's window)."""

    recipe: str
    overrides: tuple[str, ...] = ()
    prunes: bool = True
    sizes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    trains: bool = True
    shares: tuple[int, ...] = (50,)
    kept: bool = False


@dataclass(frozen=True)
class Table:
    """The methods of one table, in the order in which their students are made, and the folder of its recipes and records."""

    folder: Path
    methods: Mapping[str, Method]

    def student(self, setting: Setting, steps: int | None, name: str, share: int, seed: int, folder: str) -> api.Result:
        """The student of method `name` with `share` per cent of the teacher's MACs. steps: updates, of methods that train. folder: its
        name, without the seed."""
        method = self.methods[name]
        if method.trains and steps is None:
            raise SystemExit(f"no pace of {name} is on record; run the command with --pace --only {name} first")
        budget: dict[str, Any] = {"budget": "macs", "keep": share / 100} if method.prunes else {}
        recipe = str(self.folder / "recipes" / f"{method.recipe}-minutes.yaml")
        extra = [*method.overrides, *method.sizes.get(share, ())]
        return setting.compress(folder, seed, recipe, extra, steps=steps if method.trains else None, **budget)

    def pace(self, setting: Setting, out: Path, only: tuple[str, ...]) -> None:
        """Records how many seconds an update of each method takes. Every update pays for its targets, as in a first pass, but where a
        method says that they are kept."""
        for name, method in self.methods.items():
            if not method.trains or not name.startswith(only):
                continue
            folder = setting.work / "pace"
            extra = () if method.kept else ("data.keep_targets=0",)
            timed = Setting(setting.teacher, setting.train, folder, None, (*setting.overrides, *extra))
            for _ in range(1 + method.kept):  # the first pass makes the targets of the second
                shutil.rmtree(folder, ignore_errors=True)
                result = self.student(timed, PACED, name, method.shares[0], seed=1, folder=name)
            stages = [stage for stage in result.record["stages"] if "train_seconds" in stage]
            seconds = sum(stage["train_seconds"] for stage in stages) / sum(stage["updates"] for stage in stages)
            record = {**ledger.header("pace"), "name": name, "seconds_per_update": round(seconds, 4)}
            ledger.write(out / ledger.RECORDS, record)
            shutil.rmtree(folder)

    def rows(self, setting: Setting, steps: Mapping[str, int], seeds: list[int], suffix: str = "") -> Iterator[Row]:
        """Every student: whole encoders first, then those of half of the MACs, and a seed's together, so that an early end leaves whole
        comparisons. suffix: behind every name."""
        for share in (WHOLE, *SHARES):
            for seed in seeds:
                for name, method in self.methods.items():
                    if share in method.shares:
                        folder = f"{name}-{share}{suffix}"
                        yield folder, seed, partial(self.student, setting, steps.get(name), name, share, seed, folder)


def updates(out: Path, minutes: float) -> dict[str, int]:
    """By method: so many updates fill the minutes, by the last record of their pace."""
    paces = {row["name"]: row["seconds_per_update"] for row in ledger.read_all(out / ledger.RECORDS) if row["kind"] == "pace"}
    return {name: round(60 * minutes / seconds) for name, seconds in paces.items()}


def main(about: str | None, table: Table, equal: int = 0, tasks: Sequence[str] = ("librispeech", "speechocean")) -> None:
    """The command of a table. about: the docstring of its file. equal: updates of every method, where minutes are not what is equal. tasks:
    of `TASKS`."""
    parser = arguments(f"{about}\n{__doc__}", str(table.folder / "run.py"))
    parser.add_argument("--pace", action="store_true", help="time a few updates of each method, and stop")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training, for each student")
    parser.add_argument("--probes", action="store_true", help="also probe the students' encoders")
    parser.set_defaults(data=str(TASKS), tasks=list(tasks))
    options = parser.parse_args()
    setting = Setting.of(options)
    if options.pace:
        table.pace(setting, options.out, tuple(options.only))
        return
    steps = dict.fromkeys(table.methods, equal) if equal else updates(options.out, options.minutes)
    suffix = "" if equal or options.minutes == MINUTES else f"-{options.minutes:g}min"
    rows = list(table.rows(setting, steps, options.seeds, suffix))
    train_and_measure(options, rows)
    if options.probes:
        options.data, options.tasks = "testbed", list(PROBES)
        train_and_measure(options, rows)
