"""Measures teachers and controls on the testbed's speaker verification, with a probe that trains four times as long.

python -m experiments.longer_probe.run conformer-2 log-mel fbank --speech FOLDER
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import sottovoce

LONGER = [f"tasks.asv.task.training.{field}" for field in ("lrs=[3e-4]", "steps=2400", "evaluate_every=300", "patience=8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--speech", required=True, help="folder of the testbed's corpora")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    where = {"data": "testbed", "root": options.speech, "out": options.out}
    sottovoce.evaluate(options.models, tasks=["asv"], seeds=[1], overrides=LONGER, say=partial(print, flush=True), **where)


if __name__ == "__main__":
    main()
