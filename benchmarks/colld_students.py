"""The students of CoLLD's table: one size, the same data, as many updates; CoLLD, its controls, a sweep of what the paper leaves open.

    python benchmarks/colld_students.py --teacher TEACHER --train train.tsv --speech FOLDER --work DIR --out results/colld

Names that begin with "colld" are the recipe and its controls, one field changed each; with "sweep" the sweep, one value changed each; with
"sotto" the union of both founding methods and its parts, at a quarter of the teacher's MACs unless their name says otherwise.
`--only sweep-temperature --tasks pr sid` narrows it down. Options and resuming are those of `testbed_students.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from testbed_students import Row, Setting, arguments, carry_out, setting_of

CONTROLS = {
    "colld": [],
    "colld-l1-cosine": ["hidden=distance"],
    "colld-unmasked": ["mask=false"],
    "colld-mse": ["hidden=distance", "l1=0", "cosine=0", "mse=1"],
    "colld-armhubert": ["masked_teacher=true", "hidden=distance", "visible=distance", "l1=0", "cosine=0", "mse=1"],
    "colld-unmasked-l1-cosine": ["mask=false", "hidden=distance"],
}
SWEEP = {
    "temperature": ["temperature=0.05", "temperature=0.2", "temperature=0.5"],
    "distractors": ["distractors=20", "distractors=50", "distractors=0"],
    "layers": ["layers=3", "layers=2", "layers=1"],
    "target": ["target=block"],
    "head": ["head=mlp"],
}
MASKS = ["0.3", "0.5", "0.8"]


def colld(setting: Setting, name: str, fields: list[str], seed: int, extra: tuple[str, ...] = ()) -> Row:
    overrides = [*(f"objectives.colld.{field}" for field in fields), *extra, *setting.alike("distill")]
    return name, seed, partial(setting.compress, name, seed, "colld-demo", overrides)


def sotto(setting: Setting, name: str, keep: float, seed: int, overrides: tuple[str, ...] = ()) -> Row:
    get = partial(setting.compress, name, seed, "sotto-demo", list(overrides), budget="macs", keep=keep, steps=setting.steps)
    return name, seed, get


def table(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    for seed in seeds:
        for name, fields in CONTROLS.items():
            yield colld(setting, name, fields, seed)
    for seed in seeds:
        for kind, values in SWEEP.items():
            for value in values:
                yield colld(setting, f"sweep-{kind}-{value.partition('=')[2]}", [value], seed)
        for share in MASKS:
            yield colld(setting, f"sweep-mask-{share}", [], seed, (f"masking.share={share}",))
    off = "objectives.layer_to_layer=false"
    parts = {
        "sotto": (),
        "sotto-no-clean": (off,),
        "sotto-no-contrast": ("objectives.colld.hidden=distance",),
        "sotto-one-pass": (off, "objectives.colld.visible=distance"),
        "sotto-block": ("objectives.colld.target=block",),
    }
    for seed in seeds:
        for name, overrides in parts.items():
            yield sotto(setting, name, 0.25, seed, overrides)
        for keep in (0.5, 0.1):
            yield sotto(setting, f"sotto-macs-{keep * 100:.0f}", keep, seed)


def main() -> None:
    options = arguments(__doc__).parse_args()
    carry_out(options, table(setting_of(options), options.seeds))


if __name__ == "__main__":
    main()
