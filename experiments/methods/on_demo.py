"""Trains and measures students of the built-in `demo` by the methods that Moonshine is no teacher for, and by DPHuBERT and `minitron`.

    python -m experiments.methods.on_demo --train english.tsv --speech FOLDER --work DIR --whisper WHISPER_BASE

All have half of the MACs and equal updates, and are probed by tasks of the testbed. The teacher of two of them is `demo` after fine-tuning
for recognition (`tuned`, which is measured, too).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.minutes import PROBES, WHOLE, Method, Table
from experiments.students import Row, Setting, arguments, train_and_measure
from sottovoce.train import api

UPDATES = 1000
TUNED = "demo-tuned"
OF_TUNED = ("demo-movement-l0", "demo-finetune-then-prune")
SUPERNET, SUBNET = "demo-lighthubert", "demo-lighthubert-subnet"  # the second is taken out of the first


def table(whisper: str) -> Table:
    """whisper: USAD's second teacher."""
    second = (f"teachers.audio.source={whisper}",)
    methods = {
        "demo-dphubert": Method("demo-dphubert"),
        "demo-minitron": Method("demo-minitron"),
        "demo-movement": Method("demo-movement"),
        "demo-fithubert": Method("demo-fithubert", prunes=False),
        "demo-usad": Method("demo-usad", second, prunes=False),
        SUPERNET: Method(SUPERNET, prunes=False, shares=(WHOLE,)),
        SUBNET: Method(SUBNET, trains=False),
        TUNED: Method(TUNED, prunes=False, shares=(WHOLE,)),
        **{name: Method(name) for name in OF_TUNED},
    }
    return Table(Path(__file__).parent, methods)


def rows(setting: Setting, methods: Table, seeds: list[int]) -> Iterator[Row]:
    """Every student. Those of another teacher than `demo` have it trained first."""
    steps = dict.fromkeys(methods.methods, UPDATES)
    teachers = {**dict.fromkeys(OF_TUNED, TUNED), SUBNET: SUPERNET}

    def student(name: str, share: int, seed: int) -> api.Result:
        mine = setting
        if name in teachers:
            mine = replace(setting, teacher=str(student(teachers[name], WHOLE, seed).out))
        return methods.student(mine, steps[name], name, share, seed, f"{name}-{share}")

    for seed in seeds:
        for name, method in methods.methods.items():
            for share in method.shares:
                yield f"{name}-{share}", seed, partial(student, name, share, seed)


def main() -> None:
    parser = arguments(__doc__, __file__)
    parser.add_argument("--whisper", default="openai/whisper-base", help="USAD's second teacher")
    parser.set_defaults(tasks=list(PROBES))
    options = parser.parse_args()
    setting = Setting.of(options)
    train_and_measure(options, rows(setting, table(options.whisper), options.seeds))


if __name__ == "__main__":
    main()
