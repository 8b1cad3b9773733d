"""Is one model better than another on the same recordings? The difference, and its interval over whom the recordings are of.

    python benchmarks/paired.py conformer-4 log-mel --task sid --task sid-wild --root SPEECH --cache DIR --out results/paired.json

Two models' own intervals hold what makes recordings hard for both, and may overlap where one is better nearly everywhere. Here the same
draws of groups (sessions, speakers) serve both (paired bootstrap, 95 %). better: the first model's value less the second's, or the other
way about where less is better. Tasks with a probe, but for verification, whose scores are of trials.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.core import ledger
from sottovoce.core.registry import TASKS
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.learned import LearnedTask, Rows
from sottovoce.evaluation.kinds.task import Bench, Measure
from sottovoce.evaluation.kinds.verification import VerificationTask
from sottovoce.evaluation.statistics.bootstrap import interval
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.config import Entry, load_suite


def tested(subject: Subject, entry: Entry, root: Path, bench: Bench) -> tuple[LearnedTask, list[Rows], list[str], list[Measure]]:
    """The task, the test rows of every seed, whom they are of, and what the task makes of them."""
    task = TASKS.get(entry.task.name)(entry.task.config)
    kept: list[tuple[list[Rows], list[str]]] = []
    measures = task.measures

    def keep(rows: list[Rows], groups: Sequence[str]) -> list[Measure]:
        kept.append((rows, list(groups)))
        found: list[Measure] = measures(rows, groups)
        return found

    task.measures = keep
    outcome = task.measure(subject, entry.open(root), bench)
    ((rows, groups),) = kept
    return task, rows, groups, outcome.measures


def compared(one: Subject, other: Subject, entry: Entry, root: Path, bench: Bench) -> dict[str, Any]:
    """By metric: both values, how much better the first is, and the interval of that. ValueError when they heard different recordings."""
    (task, ones, groups, first), (_, others, same, second) = (tested(subject, entry, root, bench) for subject in (one, other))
    if groups != same:
        raise ValueError(f"{one.name} and {other.name} could not use the same recordings")
    flat, width = np.concatenate([*ones, *others], axis=1), ones[0].shape[1]

    def better(sample: Rows, of: int) -> float:
        scores = [task.scores(part)[of] for part in np.split(sample, sample.shape[1] // width, axis=1)]
        half = len(scores) // 2
        return task.metrics[of].sign * float(np.mean(scores[:half]) - np.mean(scores[half:]))

    made = {}
    for number, metric in enumerate(task.metrics):
        low, high = interval(flat, partial(better, of=number), task.drawn(groups))
        found = {"value": better(flat, number), "low": low, "high": high}
        made[metric.name] = {
            "models": {one.name: first[number].record(), other.name: second[number].record()},
            "better": {key: round(value, 4) for key, value in found.items()},
            "groups": len(set(groups)),
        }
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--task", action="append", required=True, help="an entry of the task file")
    parser.add_argument("--data", default="testbed", help="a task file")
    parser.add_argument("--root", required=True, type=Path, help="where its paths start")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--cache-gb", type=float, default=24)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)

    suite = load_suite(options.data).choose(options.task)
    for name, entry in suite.tasks.items():
        kind = TASKS.get(entry.task.name)
        if not issubclass(kind, LearnedTask) or issubclass(kind, VerificationTask):
            parser.error(f"{name} has no probe whose answers to single recordings could be compared")
    one, other = open_subject(options.one), open_subject(options.other)
    bench = Bench(FeatureStore(options.cache, options.cache_gb), tuple(options.seeds))
    tasks = {}
    for name, entry in suite.tasks.items():
        tasks[name] = compared(one, other, entry, options.root, bench)
        for metric, found in tasks[name].items():
            values = {model: measure["value"] for model, measure in found["models"].items()}
            print(name, metric, values, found["better"], flush=True)
    ledger.write(
        options.out,
        {
            **ledger.header("paired"),
            "models": [one.record(), other.record()],
            "seeds": options.seeds,
            "data": options.data,
            "tasks": tasks,
        },
    )


if __name__ == "__main__":
    main()
