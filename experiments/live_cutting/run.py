"""Trains DPHuBERT's students at a quarter of the parameters with live cutting, which removes closed units for good while gates still train.

    python -m experiments.live_cutting.run --train train.tsv --speech FOLDER --work DIR --tasks ks-arabic sid

The same students without live cutting are in `equal_latency`.
"""

from __future__ import annotations

from functools import partial

from experiments.students import Setting, arguments, train_and_measure

LIVE = "pruning.live=20"  # updates between two cuts


def main() -> None:
    options = arguments(__doc__, __file__).parse_args()
    make = partial(Setting.of(options).compress, recipe="dphubert-demo", extra=[LIVE], budget="params", keep=0.25)
    name = "live-params-25"
    train_and_measure(options, [(name, seed, partial(make, name, seed, steps=options.steps)) for seed in options.seeds])


if __name__ == "__main__":
    main()
