"""Trains and measures students by what could make `minitron` better, one thing at a time: Moonshine tiny, ten minutes each.

    python -m experiments.real_teachers.manifests --speech FOLDER --out DIR
    python -m experiments.sotto.run --teacher MOONSHINE --train DIR/languages.tsv --speech FOLDER --work DIR --pace
    python -m experiments.sotto.run --teacher MOONSHINE --train DIR/languages.tsv --speech FOLDER --work DIR

What they are compared with, `minitron` and DPHuBERT, is in `experiments/real_teachers`.
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import Method, Table, main

TABLE = Table(
    Path(__file__).parent,
    {
        "contrast": Method("contrast"),
        "every-layer": Method("every-layer"),
        "last-layer": Method("last-layer"),
        "grouped": Method("grouped"),
        "foreign": Method("foreign"),
        "host-late": Method("host-late"),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE)
