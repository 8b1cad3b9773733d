"""Pre-trains the teachers whose runs are among the records, by the recipes that stand there, and measures them on the testbed.

    python -m experiments.teachers.run conformer-3 conformer-4 --train voices.tsv --speech FOLDER --work DIR

A teacher that begins from another (conformer-3 from conformer-2) looks for it in --work. train: recordings with a column `voice`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import yaml

import sottovoce
from sottovoce.core import ledger

FOLDER = Path(__file__).parent


def main() -> None:
    runs = {record["name"]: record for record in ledger.read_all(FOLDER / ledger.RECORDS) if record["kind"] == "run"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(runs))
    parser.add_argument("--train", required=True)
    parser.add_argument("--speech", default="", help="folder of the testbed's corpora; without it teachers are only trained")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["all"])
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in options.names:
        recipe = options.work / f"{name}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(
            yaml.safe_dump({**runs[name]["recipe"], "teacher": str(options.work / runs[name]["recipe"]["teacher"])})
        )
        sottovoce.pretrain(recipe=recipe, data=options.train, out=options.work / name)
        if options.speech:
            where = {"data": "testbed", "root": options.speech, "out": options.out, "say": partial(print, flush=True)}
            sottovoce.evaluate([str(options.work / name)], tasks=options.tasks, **where)


if __name__ == "__main__":
    main()
