"""Trains and measures the students of CoLLD's table, at equal sizes: CoLLD, its controls, DPHuBERT, and `sotto`, the union of both.

    python -m experiments.colld.run --teacher TEACHER --train train.tsv --speech FOLDER --work DIR
    python -m experiments.comparisons colld

Teacher: a Conformer 144 wide with 8 layers (recipe pretrain-conformer). CoLLD's students are as deep and thinner: half, a quarter and a
tenth of its MACs; with half and a quarter of its layers, about 5 and 3 %. DPHuBERT and `sotto` get exactly these budgets; the two small
ones, at which the recipe's gates do not arrive in time, also with more pressure towards the budget ("pressed", with which they do, or go
too far and are opened again by the cut) and, besides, dual restarts ("restarts", which hold them) or faster gates ("fast"). Names that
begin with "colld" are the recipe and, at a quarter, its controls, one field changed each; with "sotto" the union and, at a tenth and at 5
%, its parts (at a quarter it is too near to its teacher for them to matter); with "sweep" what the paper leaves open, one value changed
each, with the first seed alone. `--only sweep-temperature` narrows it down, `--share 0/2` takes every second row and leaves the others to a
process with `1/2`, `--data multilingual` fine-tunes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from experiments.students import Row, Setting, arguments, share_of, train_and_measure
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.students.narrow import Narrow
from sottovoce.train.api import Result

SIZES = {  # by the share of MACs, per cent
    50: {"dim": 92, "heads": 3, "ffn_dim": 360, "glu_dim": 92},
    25: {"dim": 56, "heads": 2, "ffn_dim": 224, "glu_dim": 56},
    10: {"dim": 32, "heads": 1, "ffn_dim": 96, "glu_dim": 32},
    5: {"dim": 32, "heads": 1, "ffn_dim": 96, "glu_dim": 32, "depth": 4},
    3: {"dim": 32, "heads": 1, "ffn_dim": 96, "glu_dim": 32, "depth": 2},
}
FIELD = "objectives.colld."
DISTANCE = f"{FIELD}hidden=distance"
MSE = [f"{FIELD}{field}" for field in ("l1=0", "cosine=0", "mse=1")]
CONTROLS = {
    "colld-l1-cosine": [DISTANCE],
    "colld-unmasked": [f"{FIELD}mask=false"],
    "colld-mse": [DISTANCE, *MSE],
    "colld-armhubert": [f"{FIELD}masked_teacher=true", f"{FIELD}visible=distance", DISTANCE, *MSE],
    "colld-unmasked-l1-cosine": [f"{FIELD}mask=false", DISTANCE],
}
SWEEP = {
    f"{FIELD}temperature": ["0.05", "0.2", "0.5"],
    f"{FIELD}distractors": ["20", "50", "0"],
    f"{FIELD}layers": ["3", "2", "1"],
    f"{FIELD}target": ["block"],
    f"{FIELD}head": ["mlp"],
    "masking.share": ["0.3", "0.5", "0.8"],
    "student.start": ["random"],
}
OFF = "objectives.layer_to_layer=false"
PARTS = {
    "no-clean": [OFF],
    "no-contrast": [DISTANCE],
    "one-pass": [OFF, f"{FIELD}visible=distance"],
    "unmasked": [f"{FIELD}mask=false"],
    "unmasked-alone": [OFF, f"{FIELD}mask=false"],
    "dense": [f"{FIELD}layers=0"],
    "block": [f"{FIELD}target=block"],
    "live": ["pruning.live=20"],
}
PRESSED = ["pruning.multiplier_lr=1.0"]
SCHEDULES = {
    "pressed": PRESSED,
    "restarts": [*PRESSED, "pruning.restarts=true"],
    "fast": [*PRESSED, "pruning.gate_lr=0.5"],
}
UNITS = "pruning.units=[conv,head,ffn,glu]"

Make = Callable[[str, int], Result]


def colld(setting: Setting, name: str, seed: int, overrides: Sequence[str] = (), size: int = 25) -> Result:
    shape = [f"student.{field}={value}" for field, value in {"depth": 0, **SIZES[size]}.items()]
    return setting.compress(name, seed, "colld-demo", [*shape, *overrides, *setting.alike("distill")])


def pruned(
    setting: Setting, name: str, seed: int, kind: str, overrides: Sequence[str] = (), size: int = 25, times: float = 1
) -> Result:
    """At the MACs of CoLLD's student of that size; times: how many times the updates of the others."""
    keep = share(setting, size)
    steps = round(setting.recipe.steps * times)
    return setting.compress(name, seed, f"{kind}-demo", [UNITS, *overrides], budget="macs", keep=keep, steps=steps)


@cache
def share(setting: Setting, size: int) -> float:
    """The MACs of CoLLD's student of that size, as a share of the teacher's."""
    teacher = load_pretrained(setting.teacher)
    return share_of(Narrow(Narrow.Config(**SIZES[size])).build(teacher).config, teacher.shape)


def named(name: str, size: int) -> str:
    return name if size == 25 else f"{name}-{size}"


def students(setting: Setting) -> dict[str, Make]:
    """The table's, in its order; how to make each, of a name and a seed."""
    made: dict[str, Make] = {}
    for size in SIZES:
        made[named("colld", size)] = partial(colld, setting, size=size)
        for kind in ("dphubert", "sotto"):
            made[named(kind, size)] = partial(pruned, setting, kind=kind, size=size)
    for schedule, overrides in SCHEDULES.items():
        for size in (5, 3):
            for kind in ("dphubert", "sotto"):
                made[f"{kind}-{size}-{schedule}"] = partial(pruned, setting, kind=kind, overrides=overrides, size=size)
    # a second pass makes an update half as dear again: DPHuBERT with as much compute
    for schedule in ("pressed", "restarts"):
        longer = partial(pruned, setting, kind="dphubert", overrides=SCHEDULES[schedule], size=5, times=1.5)
        made[f"dphubert-5-{schedule}-longer"] = longer
    for part in ("no-contrast", "unmasked"):
        overrides = [*SCHEDULES["restarts"], *PARTS[part]]
        made[f"sotto-5-restarts-{part}"] = partial(pruned, setting, kind="sotto", overrides=overrides, size=5)
    for name, overrides in CONTROLS.items():
        made[name] = partial(colld, setting, overrides=overrides)
    for part, overrides in PARTS.items():
        made[f"sotto-10-{part}"] = partial(pruned, setting, kind="sotto", overrides=overrides, size=10)
    return made


def sweep(setting: Setting) -> dict[str, Make]:
    """What the paper leaves open, as `students`."""
    return {
        f"sweep-{key.rpartition('.')[2]}-{value}": partial(colld, setting, overrides=[f"{key}={value}"])
        for key, values in SWEEP.items()
        for value in values
    }


def table(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    for made, given in ((students(setting), seeds), (sweep(setting), seeds[:1])):
        for seed in given:
            for name, make in made.items():
                yield name, seed, partial(make, name, seed)


def main() -> None:
    options = arguments(__doc__, __file__).parse_args()
    train_and_measure(options, table(Setting.of(options), options.seeds))


if __name__ == "__main__":
    main()
