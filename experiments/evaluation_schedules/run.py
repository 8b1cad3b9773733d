"""Measures a model with linear probes by two schedules: solved to convergence, and the benchmark's updates.

    python -m experiments.evaluation_schedules.run --speech FOLDER --work DIR
    python -m experiments.evaluation_schedules.run --speech FOLDER --work DIR --schedule superb --entries ks-digits

Features are computed anew in an empty --work, so that `cost.features_seconds` of the records says what they take.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sottovoce

ENTRIES = {
    "ks-digits": ("ks", "fsdd"),
    "sid-digits": ("sid", "fsdd"),
    "ks-arabic": ("ks", "arabic_commands"),
    "er": ("er", "emodb"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="the folder with the corpora")
    parser.add_argument("--work", type=Path, required=True, help="for kept features")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--schedule", choices=["superb"], help="the benchmark's updates; entries then end in -superb")
    parser.add_argument("--entries", nargs="+", default=list(ENTRIES), choices=list(ENTRIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    lines = ["tasks:"]
    for name in options.entries:
        task, corpus = ENTRIES[name]
        lines.append(f"  {name}{'-superb' if options.schedule else ''}: {{task: {task}, data: {corpus}/manifest.tsv}}")
    tasks = options.work / f"tasks{'-superb' if options.schedule else ''}.yaml"
    tasks.write_text("\n".join(lines) + "\n")
    sottovoce.evaluate(
        [options.model],
        data=tasks,
        root=options.speech,
        out=Path(__file__).parent,
        cache=options.work / "features",
        seeds=options.seeds,
        schedule=options.schedule,
        say=print,
    )


if __name__ == "__main__":
    main()
