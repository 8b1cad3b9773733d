"""`sottovoce compare`: how much better one model is than another on the same recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sottovoce.core import ledger
from sottovoce.core.config import plain
from sottovoce.data import Recordings
from sottovoce.data.durations import present
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.learned import LabelledTask, Rows
from sottovoce.evaluation.kinds.task import Workbench
from sottovoce.evaluation.kinds.verification import VerificationTask
from sottovoce.evaluation.statistics.bootstrap import resampled
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.config import Suite, SuiteEntry
from sottovoce.evaluation.suite.mistakes import Mistakes
from sottovoce.evaluation.suite.pairs import fingerprint, task_of
from sottovoce.evaluation.suite.run import check_abilities, named, suite_of

SAMPLES, LEVEL = 2000, 0.95

Say = Callable[[str], None]


def compare(
    one: str,
    other: str,
    *,
    data: str | Path,
    tasks: Sequence[str] = ("all",),
    vs: str | None = None,
    out: str | Path | None = "results",
    root: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    cache_gb: float = 10.0,
    allow_commands: bool = False,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Compares two models on the same recordings by paired bootstrap. Returns the record, which is also added to ``out/records.jsonl``.

    Some recordings are hard for all models, which widens the interval of each model. So two intervals may overlap although one model is
    better nearly everywhere. Here both models share each of the 2,000 bootstrap samples of speakers (or of the groups of the task).

    The record's ``tasks[entry]["measures"][metric]`` holds ``models`` (both values), ``better`` (the advantage of the first model,
    with its 95 % interval; positive is better also for errors), ``p`` (two-sided, from the same samples) and, for a task's first
    metric, ``p_holm``: corrected for the number of tasks (Holm 1979).

    vs: a third model, whose answers both are compared with where a task does so: then ``quality-score`` says which of the two scores more
    like it. one, other, data, tasks, root, seeds, overrides, cache: as for `evaluate`. out: ``None`` writes nothing.

    ValueError for models or data that cannot be opened, for models that could not use the same recordings, and for tasks that do not
    score single recordings (verification, queries, fidelity).
    """
    ledger.commit()
    if one == other:
        raise ValueError(f"'{one}' is named twice; name two models to compare")
    if vs in (one, other):
        raise ValueError(f"--vs '{vs}' is one of the two models that are compared; name a third, or leave --vs out")
    suite, base = suite_of(tasks, data, root, overrides)
    suite = _comparable(replace(suite, seeds=tuple(seeds)) if seeds else suite, tasks, say)
    if vs is not None and all(entry.task.cls.needs != "scores" for entry in suite.tasks.values()):
        raise ValueError(
            "--vs names whose scores both models are compared with, which only --task quality-score does; leave it out"
        )
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    mistakes, opened = Mistakes(), dict[str, Recordings]()
    third = [] if vs is None else [vs]
    opened_models = {source: subject.to(where) for source, subject in named([one, other, *third], mistakes).items()}
    check_abilities(opened_models, suite, mistakes)
    for name, entry in suite.tasks.items():
        with mistakes.of(name):
            opened[name] = present(entry.open(base, allow_commands))
            task_of(entry).check(opened[name])
    mistakes.stop()
    subjects, reference = [opened_models[source] for source in (one, other)], None if vs is None else opened_models[vs]
    store = FeatureStore(None if cache is None else Path(cache), cache_gb)
    bench = Workbench(store, suite.seeds, where, reference, say=say, out=None if out is None else Path(out))
    results = {}
    for name, entry in suite.tasks.items():
        results[name] = _task(subjects, entry, opened[name], bench)
        say(_line(name, results[name]))
    first = [next(iter(each["measures"].values())) for each in results.values()]
    for measure, corrected in zip(first, holm([measure["p"] for measure in first]), strict=True):
        measure["p_holm"] = round(corrected, 5)
    record = {
        "name": "-".join(subject.name for subject in subjects),
        **ledger.header("paired"),
        "models": [subject.record() for subject in subjects],
        **({} if reference is None else {"reference": reference.record()}),
        "seeds": list(suite.seeds),
        "samples": SAMPLES,
        "tasks": results,
    }
    if out is not None:
        ledger.write(Path(out) / ledger.RECORDS, record)
    return record


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that the level bounds the chance of any false "better" (Holm 1979)."""
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def _comparable(suite: Suite, names: Sequence[str], say: Say) -> Suite:
    """The tasks that score single recordings. ValueError when there is none, or when the user named another task."""
    kinds = {name: entry.task.cls for name, entry in suite.tasks.items()}
    refused = [name for name, kind in kinds.items() if not issubclass(kind, LabelledTask) or issubclass(kind, VerificationTask)]
    if refused and ("all" not in names or len(refused) == len(kinds)):
        raise ValueError(
            f"{', '.join(refused)}: no scores of single recordings to compare; leave it out, and see the intervals of "
            "sottovoce evaluate"
        )
    if refused:
        say(f"left out, because their scores are not of single recordings: {', '.join(refused)}")
    return replace(suite, tasks={name: entry for name, entry in suite.tasks.items() if name not in refused})


def _task(subjects: Sequence[Subject], entry: SuiteEntry, recordings: Recordings, bench: Workbench) -> dict[str, Any]:
    """Both models on one task. ValueError when they could not use the same recordings."""
    task = task_of(entry)
    assert isinstance(task, LabelledTask)
    ones, others = (task.measure(subject, recordings, bench) for subject in subjects)
    skipped = [sorted(str(row["path"]) for row in outcome.skipped) for outcome in (ones, others)]
    if ones.groups != others.groups or skipped[0] != skipped[1]:
        raise ValueError(f"{task.name}: {subjects[0].name} and {subjects[1].name} could not use the same recordings")
    flat, width = np.concatenate([*ones.rows, *others.rows], axis=1), ones.rows[0].shape[1]

    def better(sample: Rows, number: int) -> float:
        scores = [task.value(part, number) for part in np.split(sample, sample.shape[1] // width, axis=1)]
        seeds = len(ones.rows)  # fewer if a seed was left out
        return task.metrics[number].sign * float(np.mean(scores[:seeds]) - np.mean(scores[seeds:]))

    measures = {}
    for number, metric in enumerate(task.metrics):
        values = resampled(flat, partial(better, number=number), task.drawn(ones.groups), SAMPLES)
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else (float("nan"),) * 2
        difference = {"value": better(flat, number), "low": float(low), "high": float(high)}
        measures[metric.name] = {
            "models": {subject.name: of.measures[number].record() for subject, of in zip(subjects, (ones, others), strict=True)},
            "better": {key: round(value, 4) for key, value in difference.items()},
            "p": round(_p_value(values), 5),
            "groups": len(set(ones.groups)),
        }
    return {
        "task": {"name": task.name, "version": task.version, "config": ledger.portable(plain(entry.task.config))},
        "data": fingerprint(recordings, task.files()),
        "measures": measures,
    }


def _p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of no difference: how often bootstrap differences change sign. At least 2 / (samples + 1)."""
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(differences) + 1))


def _line(name: str, result: Mapping[str, Any]) -> str:
    """The result for the task's first metric, as text."""
    metric, measure = next(iter(result["measures"].items()))
    values = ", ".join(f"{model} {of['value']:.4g}" for model, of in measure["models"].items())
    return f"{name}  {metric}  {values}  better by {measure['better']['value']:+.4g}"
