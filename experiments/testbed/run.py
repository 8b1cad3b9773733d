"""Trains and measures the students of the testbed's table, all from one teacher, on the same data and with as many updates.

    python -m experiments.testbed.run --teacher demo --train train.tsv --speech FOLDER --work DIR
    python -m experiments.comparisons testbed

For each budget (parameters and MACs at 50, 25 and 15 % of the teacher) and seed: DPHuBERT (recipe dphubert-demo) and a student of the same
shape from random start (recipe layer-to-layer-random); and DistilHuBERT (first two layers and prediction heads) beside a DPHuBERT student
of its MACs. `--only dphubert-macs` takes those whose names start so, `--jobs` measures so many tasks at a time. Some rows need others, so
this table cannot be shared out with `--share`. Teacher and controls are measured by `sottovoce evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from experiments.students import Row, Setting, arguments, dphubert, from_random_start, share_of, train_and_measure
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.train.api import Result

KEEPS = (0.5, 0.25, 0.15)


def distilhubert(setting: Setting, seed: int) -> Result:
    return setting.compress("distilhubert", seed, "distilhubert", setting.alike("distill"))


def equal_macs(setting: Setting, seed: int) -> Result:
    """DPHuBERT at the share of MACs that the first two layers and the front end take."""
    models = (distilhubert(setting, seed).out, setting.teacher)
    return dphubert(setting, "macs", share_of(*(load_pretrained(each).shape for each in models)), seed)


def table(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    """Every row; a seed's rows together, so that an early end leaves whole comparisons."""
    for seed in seeds:
        for unit in ("macs", "params"):
            for keep in KEEPS:
                share = f"{unit}-{keep * 100:.0f}"
                yield f"dphubert-{share}", seed, partial(dphubert, setting, unit, keep, seed)
                yield f"random-{share}", seed, partial(from_random_start, setting, unit, keep, seed)
        yield "distilhubert", seed, partial(distilhubert, setting, seed)
        yield "equal-macs", seed, partial(equal_macs, setting, seed)


def main() -> None:
    options = arguments(__doc__, __file__).parse_args()
    train_and_measure(options, table(Setting.of(options), options.seeds))


if __name__ == "__main__":
    main()
