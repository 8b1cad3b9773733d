"""Measures CoLLD's students of seed 3 on recognition in three languages (the encoder is fine-tuned) and on translation, with more seeds.

    python -m experiments.colld_finetuned.run conformer-2 --speech FOLDER --work DIR

work: the folder with the students of `experiments.colld.run`. The probes' seed 3 is among the records of `colld`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import sottovoce

STUDENTS = (
    "dphubert",
    "sotto",
    "colld",
    *(f"colld-{name}" for name in ("unmasked", "mse", "armhubert", "l1-cosine", "unmasked-l1-cosine")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--speech", required=True, help="folder of the corpora")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    models = [
        *(str(options.work / f"{name}-seed3") for name in STUDENTS),
        options.teacher,
        f"untrained:{options.teacher}",
        "log-mel",
    ]
    for seed in options.seeds:
        where = {"data": "multilingual", "root": options.speech, "out": options.out, "say": partial(print, flush=True)}
        sottovoce.evaluate(models, seeds=[seed], **where)


if __name__ == "__main__":
    main()
