"""Fine-tunes students by the ways of Wang et al. 2022 (arXiv 2210.15631) as a whole for recognition.

    python -m experiments.recognition.run --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR
    python -m experiments.recognition.run --teacher demo --train train.tsv --speech FOLDER --work DIR
    python -m experiments.recognition.run --teacher demo --train train.tsv --work DIR --only speed

Shapes, with the discriminative loss and without (`plain`), are students of Moonshine tiny, those of `experiments/methods`, and beside them
pruned ones of `experiments/real_teachers`: with the same `--work` they are not trained again. Front ends are students of `demo`, because a
filter bank has another frame rate than Moonshine. speed: seconds of each student's front end and of the rest, on a machine that does
nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from experiments.methods.run import TABLE as METHODS
from experiments.minutes import MINUTES, Table, updates
from experiments.real_teachers.students import TABLE as REAL
from experiments.students import Row, Setting, arguments, measure, train_and_measure
from sottovoce.core import ledger
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.timing.latency import latency
from sottovoce.train import api

FOLDER = Path(__file__).parent
SECONDS, REPEATS = 10.0, 20  # of audio, and how often it is timed
PLAIN = ("objectives.labels=false",)
SHAPES = {name: METHODS.methods[name] for name in ("effective-wide", "effective-deep", "effective-deleted")}
TABLE = Table(METHODS.folder, SHAPES | {f"{name}-plain": replace(method, overrides=PLAIN) for name, method in SHAPES.items()})
PRUNED = Table(REAL.folder, {name: replace(REAL.methods[name], shares=(50,)) for name in ("minitron", "dphubert")})
FRONTS = {
    "deleted": ("deleted", ()),
    "deleted-plain": ("deleted", PLAIN),
    "fbank": ("fbank", ()),
    "fbank-without-front": ("fbank", ("stages.front=false", "stages.layers.steps=1000")),
}  # name -> recipe in recipes/, overrides


def shapes(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    """Students of Moonshine tiny. The `plain` ones have as many updates as those with the loss, not as many minutes."""
    steps = updates(METHODS.folder, MINUTES)
    yield from TABLE.rows(setting, steps | {f"{name}-plain": steps[name] for name in SHAPES}, seeds)
    yield from PRUNED.rows(setting, updates(PRUNED.folder, MINUTES), seeds)


def front(setting: Setting, name: str, seed: int) -> api.Result:
    recipe, overrides = FRONTS[name]
    return setting.compress(name, seed, str(FOLDER / "recipes" / f"{recipe}.yaml"), list(overrides), long=True)


def fronts(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    """Students of `demo`."""
    for seed in seeds:
        for name in FRONTS:
            yield name, seed, partial(front, setting, name, seed)


def time_parts(setting: Setting, out: Path) -> None:
    """Records the seconds that the front ends and whole encoders of the teacher and of the first seed's students take."""
    folders = {"teacher": setting.teacher} | {name: str(front(setting, name, 1).out) for name in FRONTS if "plain" not in name}
    for name, folder in folders.items():
        encoder = load_pretrained(folder).encoder
        assert isinstance(encoder, Encoder)
        whole = latency(encoder, seconds=SECONDS, repeats=REPEATS)
        first = latency(encoder.frontend, seconds=SECONDS, repeats=REPEATS)
        record = {"seconds": {"front_end": round(first, 5), "rest": round(whole - first, 5)}, "audio_seconds": SECONDS}
        ledger.write(out / ledger.RECORDS, {**ledger.header("speed"), "name": name, "threads": torch.get_num_threads(), **record})


def controls(options: argparse.Namespace) -> None:
    """Fine-tunes the teacher and an untrained copy of it."""
    for seed in options.seeds:
        for model in (options.teacher, f"untrained:{options.teacher}"):
            if model.startswith(tuple(options.only)):
                measure(options, model, seed)


def main() -> None:
    parser = arguments(__doc__, __file__)
    parser.set_defaults(data="")
    options = parser.parse_args()
    of_demo = options.teacher == "demo"
    options.data = options.data or str(FOLDER / ("tasks-demo.yaml" if of_demo else "tasks.yaml"))
    setting = Setting.of(options)
    if options.only == ["speed"]:
        time_parts(setting, options.out)
        return
    train_and_measure(options, (fronts if of_demo else shapes)(setting, options.seeds))
    if options.speech:
        controls(options)


if __name__ == "__main__":
    main()
