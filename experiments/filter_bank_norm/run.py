"""Pre-trains the Conformer teacher with w2v-BERT 2.0's norm of the filter bank, and measures it.

    python -m experiments.filter_bank_norm.run --train train.tsv --speech FOLDER --work DIR

The teacher without the norm, which is the recipe as it is, is in `colld`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import sottovoce

TASKS = ("ks-arabic", "sid", "sid-wild", "asv", "qbe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="manifest of what the teacher learns from")
    parser.add_argument("--speech", required=True, help="folder of the testbed's corpora")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    folder = options.work / "conformer"
    sottovoce.pretrain(recipe="pretrain-conformer", data=options.train, out=folder, overrides=["student.normalize=true"])
    where = {"data": "testbed", "root": options.speech, "out": options.out, "say": partial(print, flush=True)}
    sottovoce.evaluate([str(folder)], tasks=TASKS, **where)
    sottovoce.evaluate([f"untrained:{folder}"], tasks=TASKS[1:4], seeds=[1], **where)


if __name__ == "__main__":
    main()
