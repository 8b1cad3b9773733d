"""Measures a candidate for the demo teacher against log-mel features, the former `demo` and Whisper base, and says which aims it meets.

    python -m experiments.universal.run measure --candidate DIR/universal --former DIR/demo --whisper DIR --speech FOLDER
    python -m experiments.universal.run measure ... --tasks pr qbe        # a piece; what has a record is not measured again
    python -m experiments.universal.run verdict --candidate DIR/universal # from the records: a table, and aims met and missed

The former demo teacher is in the history (`git archive 7fbfbcd src/sottovoce/assets/demo`); its folder must be called `demo`, the
candidate's must not. Without `--former`, only log-mel features are compared. Tasks that score single recordings are compared on the
same recordings (`sottovoce compare`), with three seeds; verification and queries by the intervals of each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sottovoce
from sottovoce.core import ledger
from sottovoce.evaluation.suite.compare import holm

FOLDER = Path(__file__).parent
SINGLE = ("qbe", "asv-cosine", "asv-cosine-wild", "asv")  # their scores are not of single recordings
# the most telling first
TASKS = (
    "qbe",
    "asv-cosine",
    "pr",
    "ks-arabic",
    "sid",
    "ks-digits",
    "asv-cosine-wild",
    "sid-wild",
    "asv",
    "ic",
    "asr",
    "sf",
    "sd",
)
AGAINST_WHISPER = ("pr", "ks-arabic", "qbe")  # phones, words, queries
HALVED = ("asv-cosine",)
FLOOR, FORMER = "log-mel", "demo"

Records = Sequence[Mapping[str, Any]]


def measure(candidate: Path, former: Path | None, whisper: str, speech: str, tasks: Sequence[str], out: Path) -> None:
    """Adds the records that are missing, task by task, the most telling first."""
    others = [FLOOR, *([str(former)] if former else [])]
    say = partial(print, flush=True)
    where: dict[str, Any] = {"data": "testbed", "root": speech, "out": out, "say": say}
    for task in tasks:
        if task in SINGLE:
            sottovoce.evaluate([str(candidate), *others], tasks=[task], **where)
        else:
            for other in others:
                if paired(ledger.read_all(out / ledger.RECORDS), candidate.name, Path(other).name, task) is None:
                    sottovoce.compare(str(candidate), other, tasks=[task], **where)
        if task in AGAINST_WHISPER:
            sottovoce.evaluate([whisper], tasks=[task], **where)


@dataclass(frozen=True)
class Row:
    """A task. values, intervals: the first measure of each model that has been measured. better: by how much the candidate is better than
    log-mel features, with its interval; ``None`` where that is not paired. p: of no difference, not yet corrected."""

    task: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    sign: int
    better: tuple[float, float, float] | None = None
    p: float | None = None

    def beats(self, candidate: str, other: str = FLOOR) -> bool:
        """Whether the candidate is better than log-mel features outside the interval."""
        if self.better is not None:
            return self.better[1] > 0
        (low, high), (least, most) = self.intervals[candidate], self.intervals[other]
        return low > most if self.sign > 0 else high < least

    def closed(self, candidate: str, goal: str) -> float:
        """The share of the distance from the former `demo` to `goal` that the candidate has closed; 1 if it is better than the goal."""
        if self.sign * (self.values[candidate] - self.values[goal]) >= 0:
            return 1.0
        return (self.values[candidate] - self.values[FORMER]) / (self.values[goal] - self.values[FORMER])


def paired(records: Records, one: str, other: str, task: str) -> Mapping[str, Any] | None:
    """The newest comparison of two models on a task."""
    found = [
        record["tasks"][task]
        for record in records
        if record["kind"] == "paired"
        and [model["name"] for model in record["models"]] == [one, other]
        and task in record["tasks"]
    ]
    return found[-1] if found else None


def evaluated(records: Records, model: str, task: str) -> Mapping[str, Any] | None:
    """The newest first measure of a model on a task."""
    found = [
        record["measures"]
        for record in records
        if record["kind"] == "evaluation" and record["model"]["name"] == model and record["task"]["entry"] == task
    ]
    return next(iter(found[-1].values())) if found else None


def rows(records: Records, candidate: str, whisper: str) -> list[Row]:
    """A row for each task with what is needed to judge the candidate."""
    found = []
    for task in TASKS:
        measures: dict[str, Mapping[str, Any]] = {}
        better = p = None
        if task not in SINGLE:
            for other in (FLOOR, FORMER):
                comparison = paired(records, candidate, other, task)
                if comparison is not None:
                    first = next(iter(comparison["measures"].values()))
                    measures |= first["models"]
                    if other == FLOOR:
                        gain = first["better"]
                        better, p = (gain["value"], gain["low"], gain["high"]), first["p"]
        for model in (candidate, FLOOR, FORMER, whisper):
            single = evaluated(records, model, task)
            if model not in measures and single is not None:
                measures[model] = single
        if candidate in measures and FLOOR in measures:
            sign = -1 if measures[candidate]["better"] == "lower" else 1
            values = {model: float(each["value"]) for model, each in measures.items()}
            intervals = {model: (float(each["low"]), float(each["high"])) for model, each in measures.items()}
            found.append(Row(task, values, intervals, sign, better, p))
    return found


def aims(found: Sequence[Row], candidate: str, whisper: str) -> list[tuple[str, bool]]:
    """Each aim that can be judged, and whether it is met."""
    judged = [(f"{row.task}: better than {FLOOR} outside the interval", row.beats(candidate)) for row in found]
    for row in found:
        if row.task in AGAINST_WHISPER and FORMER in row.values and whisper in row.values:
            share = row.closed(candidate, whisper)
            judged.append(
                (f"{row.task}: {share:.0%} of the distance from {FORMER} to {whisper} closed (at least half)", share >= 0.5)
            )
        if row.task in HALVED and FORMER in row.values:
            ratio = row.values[candidate] / row.values[FORMER]
            judged.append((f"{row.task}: {ratio:.2f} of {FORMER}'s (at most half)", ratio <= 0.5))
    return judged


def verdict(records: Records, candidate: str, whisper: str) -> list[str]:
    """A Markdown table, and the aims."""
    found = rows(records, candidate, whisper)
    models = (candidate, FLOOR, FORMER, whisper)
    lines = [f"| task | {' | '.join(models)} | better than {FLOOR} by | p (Holm) |", f"|---|{'---:|' * 6}"]
    tested = [row for row in found if row.p is not None]
    corrected = dict(zip((row.task for row in tested), holm([row.p or 0.0 for row in tested]), strict=True))
    for row in found:
        values = " | ".join(f"{row.values[model]:.4g}" if model in row.values else "–" for model in models)
        gain = "–" if row.better is None else f"{row.better[0]:+.4g} ({row.better[1]:.4g} to {row.better[2]:.4g})"
        p = f"{corrected[row.task]:.2g}" if row.task in corrected else "–"
        lines.append(f"| {row.task} | {values} | {gain} | {p} |")
    lines += ["", *(f"- {'met' if met else 'MISSED'}: {aim}" for aim, met in aims(found, candidate, whisper))]
    left = [task for task in TASKS if task not in {row.task for row in found}]
    return [*lines, *([f"- not measured yet: {', '.join(left)}"] if left else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "verdict"])
    parser.add_argument("--candidate", type=Path, required=True)
    parser.add_argument("--former", type=Path, help="folder `demo` of the former demo teacher")
    parser.add_argument("--whisper", default="whisper-base", help="folder of Whisper base")
    parser.add_argument("--speech", default="", help="folder of the testbed's corpora")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.candidate, options.former, options.whisper, options.speech, options.tasks, options.out)
    print("\n".join(verdict(ledger.read_all(options.out / ledger.RECORDS), options.candidate.name, Path(options.whisper).name)))


if __name__ == "__main__":
    main()
