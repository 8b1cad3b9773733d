"""Trains students by the ways of Wang et al. 2022 (arXiv 2210.15631) and fine-tunes them as a whole for recognition.

    python -m experiments.recognition.run --train train.tsv --speech FOLDER --work DIR
    python -m experiments.recognition.run --train train.tsv --speech FOLDER --work DIR --only speed

All students have equal updates. `plain` ones learn without the discriminative loss. speed: seconds of each student's front end and of the
rest, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from experiments.students import Row, Setting, arguments, measure, train_and_measure
from sottovoce.core import ledger
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.timing.latency import latency
from sottovoce.train import api

FOLDER = Path(__file__).parent
SECONDS, REPEATS = 10.0, 20  # of audio, and how often it is timed
PLAIN = ("objectives.labels=false",)
STUDENTS = {
    "wide": ("wide", ()),
    "wide-plain": ("wide", PLAIN),
    "deep": ("deep", ()),
    "deep-plain": ("deep", PLAIN),
    "deleted": ("deleted", ()),
    "deleted-plain": ("deleted", PLAIN),
    "fbank": ("fbank", ()),
    "fbank-without-front": ("fbank", ("stages.front=false", "stages.layers.steps=1000")),
}  # name -> recipe in recipes/, overrides


def student(setting: Setting, name: str, seed: int) -> api.Result:
    recipe, overrides = STUDENTS[name]
    return setting.compress(name, seed, str(FOLDER / "recipes" / f"{recipe}.yaml"), list(overrides), long=True)


def rows(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    for seed in seeds:
        for name in STUDENTS:
            yield name, seed, partial(student, setting, name, seed)


def time_parts(setting: Setting, out: Path) -> None:
    """Records the seconds that the front ends and whole encoders of the teacher and of the first seed's students take."""
    folders = {"teacher": setting.teacher} | {
        name: str(student(setting, name, 1).out) for name in STUDENTS if "plain" not in name
    }
    for name, folder in folders.items():
        encoder = load_pretrained(folder).encoder
        assert isinstance(encoder, Encoder)
        whole = latency(encoder, seconds=SECONDS, repeats=REPEATS)
        front = latency(encoder.frontend, seconds=SECONDS, repeats=REPEATS)
        record = {"seconds": {"front_end": round(front, 5), "rest": round(whole - front, 5)}, "audio_seconds": SECONDS}
        ledger.write(out / ledger.RECORDS, {**ledger.header("speed"), "name": name, "threads": torch.get_num_threads(), **record})


def controls(options: argparse.Namespace) -> None:
    """Fine-tunes the teacher and an untrained copy of it."""
    for seed in options.seeds:
        for model in (options.teacher, f"untrained:{options.teacher}"):
            measure(options, model, seed)


def main() -> None:
    parser = arguments(__doc__, __file__)
    parser.set_defaults(data=str(FOLDER / "tasks.yaml"))
    options = parser.parse_args()
    setting = Setting.of(options)
    if options.only == ["speed"]:
        time_parts(setting, options.out)
        return
    train_and_measure(options, rows(setting, options.seeds))
    if options.speech:
        controls(options)


if __name__ == "__main__":
    main()
