"""Quality at equal latency: DPHuBERT with a budget in parameters, in MACs, and in milliseconds.

    python -m experiments.equal_latency.run --train train.tsv --speech FOLDER --work DIR --tasks ks-arabic sid

For each seed, a student at a quarter of the teacher's parameters and one at a quarter of its MACs; and for each of them one whose budget is
the latency that was predicted for it. So the two of a pair take as long, and differ in what was counted while units were chosen. A third
beside the one of MACs takes as long, too, and joins pairs of frames before its first layer (time reduction). At the end all are timed in
turns, prepared for inference. Students of the testbed's table in the same --work are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from experiments.students import Row, Setting, arguments, dphubert, train_and_measure
from sottovoce.core import ledger
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning.latency import load_latency
from sottovoce.timing.measure import bench
from sottovoce.train.api import Result

KEEP, UNITS, THREADS = 0.25, ("params", "macs"), 2


def as_fast(setting: Setting, unit: str, seed: int, join: int = 1) -> Result:
    """A student whose budget is the predicted latency of the other; its layers see one frame for each `join` of the front end's."""
    other = dphubert(setting, unit, KEEP, seed).out
    ours, theirs = (load_latency().total(load_pretrained(str(each)).shape) for each in (other, setting.teacher))
    keep = round(float(ours) / float(theirs), 4)
    name, extra = f"latency-as-{unit}-{KEEP * 100:.0f}", []
    if join > 1:
        name, extra = f"join-{join}-{name}", [f"student.join={join}"]
    return setting.compress(name, seed, "dphubert-demo", extra, budget="latency", keep=keep, steps=setting.steps)


def pairs(setting: Setting, seeds: list[int]) -> Iterator[Row]:
    for seed in seeds:
        for unit in UNITS:
            share = f"{unit}-{KEEP * 100:.0f}"
            yield f"dphubert-{share}", seed, partial(dphubert, setting, unit, KEEP, seed)
            yield f"latency-as-{share}", seed, partial(as_fast, setting, unit, seed)
        yield f"join-2-latency-as-{share}", seed, partial(as_fast, setting, unit, seed, join=2)


def main() -> None:
    options = arguments(__doc__, __file__).parse_args()
    setting = Setting.of(options)
    rows = list(pairs(setting, options.seeds))
    train_and_measure(options, rows)
    if options.only != [""]:
        return
    folders = [str(get().out) for _, _, get in rows]
    timed = bench(
        folders, vs=setting.teacher, runtimes=["fast"], seconds=[10.0], batches=[1], rounds=8, threads=THREADS, say=print
    )
    predicted = load_latency().total
    shapes = {row["name"]: at for row, at in zip(timed["models"], [setting.teacher, *folders], strict=True)}
    timed["predicted_ms"] = {name: float(predicted(load_pretrained(at).shape)) for name, at in shapes.items()}
    ledger.write(options.out / ledger.RECORDS, {"name": "speed", **timed})


if __name__ == "__main__":
    main()
