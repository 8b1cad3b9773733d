"""Wall time of the whole testbed for one student, with the cache of features and without it.

    python benchmarks/testbed_time.py STUDENT --teacher demo --speech FOLDER --work DIR

All tasks, two at a time, one seed, with a cache in DIR that is empty at first: `wall_seconds`. Then the tasks named by `--without` with
`--cache-gb 0`. All tasks would take hours so; what the others would take at least is reckoned from their own records: every trial reads
steps x batch recordings, each of which costs an encoding. It is reckoned for the measured tasks, too, to be held against what they took.
The ledger entries stay in DIR/results; the first half is not done again when DIR holds it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sottovoce
from sottovoce.core import ledger
from sottovoce.evaluation.suite.config import load_suite
from sottovoce.evaluation.suite.run import Result
from sottovoce.timing.machine import header

WITHOUT = ("asr", "sd")


def timed(tasks: Sequence[str], options: argparse.Namespace, **more: Any) -> tuple[dict[str, dict[str, Any]], float]:
    """The records of the student by the task's name, and the wall seconds that they took."""
    began = time.perf_counter()
    results: list[Result] = []
    common = {"data": "testbed", "root": options.speech, "seeds": [options.seed], "jobs": options.jobs, "say": print, **more}
    for names, vs in (
        ([name for name in tasks if name != "fidelity"], ()),
        (["fidelity"] if "fidelity" in tasks else [], [options.teacher]),
    ):
        if names:
            results += sottovoce.evaluate([options.student], tasks=names, vs=vs, **common)
    return {result.record["task"]["entry"]: result.record for result in results}, time.perf_counter() - began


def reckoned(record: dict[str, Any]) -> float | None:
    """Seconds without a cache, at least: training as it was, and an encoding for whatever a step or the test reads; None without trials."""
    cost, training = record["cost"], record["task"]["config"].get("training")
    recordings = sum(split["recordings"] for split in record["data"]["splits"].values())
    if not record.get("trials") or not training or not recordings:
        return None
    read = sum(trial["steps"] for trial in record["trials"]) * training["batch"]
    return float(cost["seconds"] + cost["features_seconds"] * read / recordings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--teacher", default="demo", help="what fidelity compares with")
    parser.add_argument("--speech", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    parser.add_argument("--without", nargs="*", default=list(WITHOUT), help="tasks that are measured without a cache, too")
    parser.add_argument("--leave", nargs="*", default=[], help="tasks that are left out")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    names = [name for name in load_suite("testbed").tasks if name not in options.leave]
    done = options.work / "wall.json"
    if not done.exists():
        for folder in ("cache", "results", "without"):
            shutil.rmtree(options.work / folder, ignore_errors=True)
    kept, wall = timed(names, options, cache=options.work / "cache", cache_gb=24, out=options.work / "results")
    if done.exists():
        wall = json.loads(done.read_text())
    done.write_text(json.dumps(wall))
    bare, bare_wall = timed(options.without, options, cache=options.work / "cache", cache_gb=0, out=options.work / "without")

    tasks = {
        name: {
            "with_cache": record["cost"],
            "without_cache": bare[name]["cost"] if name in bare else None,
            "without_cache_reckoned_seconds": reckoned(record),
        }
        for name, record in kept.items()
    }
    best = [
        row["without_cache"]["seconds"]
        if row["without_cache"]
        else row["without_cache_reckoned_seconds"] or row["with_cache"]["seconds"]
        for row in tasks.values()
    ]
    some = kept["pr"] if "pr" in kept else next(iter(kept.values()))
    record = {
        "name": "testbed-time",
        **header("testbed-time", options.jobs),
        "model": some["model"],
        "jobs": options.jobs,
        "wall_seconds": round(wall, 1),
        "wall_seconds_without_cache": {"tasks": list(bare), "seconds": round(bare_wall, 1)},
        "task_seconds": round(sum(row["with_cache"]["seconds"] for row in tasks.values()), 1),
        "task_seconds_without_cache_at_least": round(sum(best), 1),
        "tasks": tasks,
    }
    ledger.write(options.out, record)
    total = record["task_seconds_without_cache_at_least"]
    print(f"{wall:.0f} s with the cache; task seconds {record['task_seconds']:.0f}, without at least {total:.0f}")


if __name__ == "__main__":
    main()
