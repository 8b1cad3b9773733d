"""Models beside each other: evaluations as one table of rows (models, over their seeds) and columns (tasks)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sottovoce.core.registry import TASKS
from sottovoce.reporting.collect import Evaluation, question, scored_by
from sottovoce.reporting.text import SPACE, hours

SAME = 1.01
UNITS = {"macs": "MACs", "params": "parameters", "latency": "latency"}
ORDER = {"teacher": 0, "student": 1, "control": 2}


@dataclass(frozen=True)
class TaskColumn:
    """A column. key: for the page's use. label: the entry, numbered where one entry stands for different questions, and the version of
    the task where the task has a newer one."""

    key: str
    label: str
    title: str
    measure: str
    unit: str
    better: str
    question: tuple[str, str, str, int]

    @property
    def sign(self) -> int:
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Cell:
    """A value. low, high: with n = 1 the interval that the evaluation gives, with more the lowest and highest of the n models."""

    value: float
    low: float | None
    high: float | None
    n: int = 1


@dataclass(frozen=True)
class Row:
    """One model, or several (`members`) that differ in their seed alone. cells: by the task's key. evaluations: likewise, of all members.

    recipe: what the student was trained by, and its budget; "" for others. data: what it was trained on; "" if unknown. method: the recipe
    without how much was to stay, so that the sizes of one method are a series. rank: mean rank over the tasks that all rows have in
    common, 1 is best; score: mean over them of the place between worst (0) and best (100).
    """

    name: str
    role: str
    recipe: str
    method: str
    params: float | None
    macs: float | None
    cells: Mapping[str, Cell]
    evaluations: Mapping[str, tuple[Evaluation, ...]]
    members: tuple[Row, ...] = ()
    seed: int | None = None
    data: str = ""
    runs: frozenset[str] = frozenset()  # keys of the runs in whose folders it was evaluated
    rank: float | None = None
    score: float | None = None

    @property
    def n(self) -> int:
        return max(1, len(self.members))


@dataclass(frozen=True)
class Board:
    """tasks: those that `rank` and `score` are taken over are in `common`. rows: teacher, students from best to worst, controls."""

    tasks: tuple[TaskColumn, ...] = ()
    rows: tuple[Row, ...] = ()
    common: tuple[str, ...] = field(default=())

    def best(self, task: TaskColumn) -> set[str]:
        """Names of the rows with the best value: of the students, or of all where there is none. Nobody is best alone."""
        rows = [row for row in self.rows if task.key in row.cells and row.role == "student"]
        rows = rows or [row for row in self.rows if task.key in row.cells]
        if len(rows) < 2:
            return set()
        top = max((task.sign * row.cells[task.key].value for row in rows), default=0.0)
        return {row.name for row in rows if task.sign * row.cells[task.key].value == top}


def build(evaluations: Sequence[Evaluation]) -> Board:
    """The table of all evaluations."""
    tasks = _tasks(evaluations)
    keys = {task.question: task for task in tasks}
    of_model: dict[tuple[str, str], list[Evaluation]] = defaultdict(list)
    for one in evaluations:
        of_model[one.record["model"]["role"], one.record["model"]["fingerprint"]].append(one)
    singles = [_single(found, keys) for found in of_model.values()]
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row, found in zip(singles, of_model.values(), strict=True):
        groups[_repetition(found[0].record["model"])].append(row)
    rows = _apart([row for group in groups.values() for row in _merge(group)])
    rows, common = _ranked(rows, tasks)
    rows.sort(key=lambda row: (ORDER[row.role], row.rank is None, row.rank or 0.0, -(row.macs or 0.0), row.name))
    return Board(tuple(tasks), tuple(rows), common)


def frontier(points: Iterable[tuple[float, float]], sign: int) -> list[tuple[float, float]]:
    """Of (cost, value), those that no other beats: none is better for as much, or as good for less. In order of cost.

    Costs within 1 % count as equal, as they do for a budget: two students of one budget must not both stand on the line.
    """
    given = sorted(set(points))

    def beaten(cost: float, value: float) -> bool:
        return any(
            (sign * other > sign * value and paid <= SAME * cost) or (other == value and paid < cost) for paid, other in given
        )

    return [(cost, value) for cost, value in given if not beaten(cost, value)]


def _tasks(evaluations: Sequence[Evaluation]) -> list[TaskColumn]:
    first: dict[tuple[str, str, str, int], Mapping[str, Any]] = {}
    valued: dict[tuple[str, str, str, int], set[str]] = defaultdict(set)
    for one in evaluations:
        key = question(one.record)
        first.setdefault(key, one.record)
        valued[key] |= {name for name, measure in one.record["measures"].items() if measure["value"] is not None}
    asked: dict[str, list[tuple[str, str, str, int]]] = defaultdict(list)
    for key in first:
        asked[key[0]].append(key)
    models = _models(evaluations)

    def order(key: tuple[str, str, str, int]) -> tuple[int, str, int]:
        """Questions that most teachers and students answered come first; equal ones are in order of their names."""
        return -len(models["compared", key]), key[0], -len(models["control", key])

    for twins in asked.values():
        twins.sort(key=order)
    columns = []
    for i, key in enumerate(sorted(first, key=order)):
        record = first[key]
        measures = record["measures"]
        name = next((name for name in measures if name in valued[key]), next(iter(measures)))
        measure = measures[name]
        twins = asked[key[0]]
        label = key[0] if len(twins) == 1 else f"{key[0]} ({twins.index(key) + 1})"
        label += _outdated(record)
        columns.append(TaskColumn(f"t{i}", label, record["task"]["title"], name, measure["unit"], measure["better"], key))
    return columns


def _models(evaluations: Sequence[Evaluation]) -> Mapping[tuple[str, tuple[str, str, str, int]], set[str]]:
    """Fingerprints of the models that answered each question: of "compared" (teachers and students), and of every "control"."""
    models: dict[tuple[str, tuple[str, str, str, int]], set[str]] = defaultdict(set)
    for one in evaluations:
        model = one.record["model"]
        group = "control" if model["role"] == "control" else "compared"
        models[group, question(one.record)].add(model["fingerprint"])
    return models


def _outdated(record: Mapping[str, Any]) -> str:
    """', version 1' for an evaluation whose task scores otherwise by now; "" else, and for tasks that are not installed."""
    name, version = record["task"]["name"], scored_by(record)
    return f", version {version}" if name in TASKS.names() and TASKS.get(name).version != version else ""


def _single(found: Sequence[Evaluation], tasks: Mapping[tuple[str, str, str, int], TaskColumn]) -> Row:
    model = found[0].record["model"]
    cells, evaluations = {}, {}
    for one in found:
        task = tasks[question(one.record)]
        measure = one.record["measures"].get(task.measure)
        if measure is not None and measure["value"] is not None:
            cells[task.key] = Cell(measure["value"], measure.get("low"), measure.get("high"))
            evaluations[task.key] = (one,)
    origin = model.get("origin") or {}
    return Row(
        name=model["name"],
        role=model["role"],
        recipe=_recipe(origin) if model["role"] == "student" else "",
        method=_recipe(origin, share=False) if model["role"] == "student" else "",
        params=model.get("params"),
        macs=model.get("macs_per_s"),
        cells=cells,
        evaluations=evaluations,
        seed=origin.get("seed") if isinstance(origin.get("seed"), int) else None,
        data=_data(origin),
        runs=frozenset(one.run for one in found if one.run),
    )


def _recipe(origin: Mapping[str, Any], share: bool = True) -> str:
    """'dphubert-demo, 25 % of MACs'; without `share` 'dphubert-demo, MACs', which all its sizes have in common."""
    keep, unit = origin.get("keep"), origin.get("unit")
    budget = str(UNITS.get(str(unit), unit)) if unit else ""
    if share:
        budget = f"{100 * keep:.3g} % of {budget}".replace(" ", SPACE) if budget and isinstance(keep, int | float) else ""
    return ", ".join(str(part) for part in (origin.get("recipe"), budget) if part)


def _data(origin: Mapping[str, Any]) -> str:
    """'english.tsv, 4.62 h': what a student was trained on; "" for one whose run did not say it."""
    source, audio = origin.get("data"), origin.get("hours")
    length = hours(audio) if isinstance(audio, int | float) else ""
    return ", ".join(str(part) for part in (source, length) if part)


def _repetition(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Models with the same key are the same thing with other seeds. The commit does not count: seeds are often run days apart."""
    origin = model.get("origin")
    if not origin or "seed" not in origin:
        return model["role"], model["fingerprint"], model["name"]
    same = {key: value for key, value in origin.items() if key not in ("seed", "commit")}
    return model["role"], json.dumps(same, sort_keys=True, default=str)


def _merge(rows: list[Row]) -> list[Row]:
    """One row of several seeds. Where a seed comes twice, more than the seed differs, and only those with like names belong together."""
    if len(rows) == 1:
        return rows
    if len({row.seed for row in rows}) < len(rows):
        named: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            named[_stem(row)].append(row)
        if len(named) == 1:
            return rows
        return [made for group in named.values() for made in _merge(group)]
    rows = sorted(rows, key=lambda row: (row.seed or 0, row.name))
    cells, evaluations = {}, {}
    for key in dict.fromkeys(key for row in rows for key in row.cells):
        found = [row.cells[key] for row in rows if key in row.cells]
        values = [cell.value for cell in found]
        cells[key] = found[0] if len(found) == 1 else Cell(sum(values) / len(values), min(values), max(values), len(values))
        evaluations[key] = tuple(one for row in rows if key in row.evaluations for one in row.evaluations[key])
    merged = replace(
        rows[0],
        name=_shared_name(rows),
        params=_mean(row.params for row in rows),
        macs=_mean(row.macs for row in rows),
        cells=cells,
        evaluations=evaluations,
        members=tuple(rows),
        seed=None,
        runs=frozenset().union(*(row.runs for row in rows)),
    )
    return [merged]


def _stem(row: Row) -> str:
    """The name without the seed at its end."""
    return re.sub(rf"[-_.# ]*(seed|s)?[-_= ]?{row.seed}$", "", row.name) or row.name


def _shared_name(rows: Sequence[Row]) -> str:
    stems = {_stem(row) for row in rows}
    if len(stems) == 1:
        return stems.pop()
    shared = rows[0].name
    while not all(row.name.startswith(shared) for row in rows):
        shared = shared[:-1]
    shared = shared.rstrip("-_.# ")
    return shared if len(shared) >= 3 else f"{rows[0].name} and {len(rows) - 1} more"


def _apart(rows: list[Row]) -> list[Row]:
    """Rows with the same name get behind it what tells them apart."""
    named: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        named[row.name].append(row)
    return [replace(row, name=f"{row.name} [{_mark(row, named[row.name])}]") if len(named[row.name]) > 1 else row for row in rows]


def _mark(row: Row, twins: Sequence[Row]) -> str:
    """What the row was trained on, if that differs among all of its name, else the beginning of its fingerprint."""
    data = {twin.data for twin in twins}
    if "" not in data and len(data) == len(twins):
        return row.data
    first = next((each[0] for each in row.evaluations.values()), None)
    return str(first.record["model"]["fingerprint"][:6]) if first else row.role


def _ranked(rows: list[Row], tasks: Sequence[TaskColumn]) -> tuple[list[Row], tuple[str, ...]]:
    """Mean rank and score over the tasks that every teacher and student has; rows that lack one of them (controls may) get neither."""
    judged = [row for row in rows if row.role != "control"] or rows
    common = [task for task in tasks if all(task.key in row.cells for row in judged)]
    whole = [row for row in rows if all(task.key in row.cells for task in common)]
    if len(common) < 2 or len(whole) < 2:
        return rows, ()
    ranks: dict[int, list[float]] = defaultdict(list)
    scores: dict[int, list[float]] = defaultdict(list)
    for task in common:
        values = [task.sign * row.cells[task.key].value for row in whole]
        low, high = min(values), max(values)
        for row, value in zip(whole, values, strict=True):
            better, equal = sum(other > value for other in values), sum(other == value for other in values)
            ranks[id(row)].append(1 + better + (equal - 1) / 2)
            scores[id(row)].append(100 * (value - low) / (high - low) if high > low else 100.0)
    made = [replace(row, rank=_mean(ranks[id(row)]), score=_mean(scores[id(row)])) if id(row) in ranks else row for row in rows]
    return made, tuple(task.key for task in common)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


COSTS: dict[str, tuple[str, str, Callable[[Row], float | None]]] = {
    "macs": ("Compute", "MAC/s", lambda row: row.macs),
    "params": ("Parameters", "", lambda row: row.params),
}
