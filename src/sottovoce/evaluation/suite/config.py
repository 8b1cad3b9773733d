"""Task files: which tasks to run on what data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from sottovoce import recipes
from sottovoce.core.config import (
    Component,
    ConfigError,
    Given,
    build,
    component,
    components,
    nested,
    overlay,
    override,
    plain,
    read_yaml,
)
from sottovoce.core.registry import TASKS, Registry, suggestion
from sottovoce.data import Recording, Recordings, open_source
from sottovoce.data.degradations.base import Chain, DegradationChoice
from sottovoce.data.degrade import Degrade, degrade
from sottovoce.data.draw import draw
from sottovoce.data.scan import select
from sottovoce.data.splits import canonical, remarks
from sottovoce.evaluation.heads.schedule import Training

SINGLE = "fidelity"
SUPERB = "superb"


@dataclass(frozen=True)
class Source:
    """A source of recordings.

    path: as for `open_source`, relative to the suite's root. where: only rows with these values. fields: {new column: old column},
    e.g. {label: language}. split: {name in the data: new name}, for unusual names of splits (see `sottovoce.data.splits`). limit: the
    most recordings per split, chosen by a hash of their ids. degrade: add a room, a microphone and noise of its own to each recording
    (see `data/degrade.py`). degradations: other things to do to them, by label, drawn for each recording from a hash of its id.
    """

    path: str
    where: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    split: Mapping[str, str] = field(default_factory=dict)
    limit: Mapping[str, int] = field(default_factory=dict)
    degrade: Degrade | None = None
    degradations: Mapping[str, DegradationChoice] = components(DegradationChoice)

    def open(self, root: Path, allow_commands: bool = False) -> Recordings:
        recordings = open_source(self.path if self.path == "demo" else root / Path(self.path).expanduser(), allow_commands)
        opened = recordings.with_items(())
        chosen: dict[str, list[Recording]] = {}
        counts: dict[str, int] = {}
        for item in select(recordings, self.where):
            fields = {**item.fields, **{new: item.fields[old] for new, old in self.fields.items() if old in item.fields}}
            named = fields.get("split", "")
            named = self.split.get(named, named)
            counts[named] = counts.get(named, 0) + 1
            fields["split"] = canonical(named)
            chosen.setdefault(fields["split"], []).append(replace(item, fields=fields))
        for remark in remarks(counts):
            opened.note(self.path, remark)
        for name, items in chosen.items():
            items_used = items
            if name in self.limit:
                items_used = sorted(items, key=lambda item: draw(item.id))[: self.limit[name]]
            opened += items_used
        opened = opened if self.degrade is None else degrade(opened, self.degrade)
        return degrade(opened, Chain(self.degradations)) if self.degradations else opened


@dataclass(frozen=True)
class TaskChoice(Component):
    """A task by name, and its settings."""

    registry: ClassVar[Registry] = TASKS


@dataclass(frozen=True)
class SuiteEntry:
    """One task on one collection of data."""

    data: tuple[Source, ...]
    task: TaskChoice = component(TaskChoice, SINGLE)

    @staticmethod
    def expand(given: Any) -> Any:
        """Expands shorthand: `data: PATH` and lists of paths; and the benchmark's values for a schedule of steps."""
        if not isinstance(given, Mapping):
            return given
        expanded = {**given, "task": scheduled(given["task"])} if "task" in given else dict(given)
        if "data" in expanded:
            sources = expanded["data"] if isinstance(expanded["data"], (list, tuple)) else [expanded["data"]]
            expanded["data"] = [source if isinstance(source, Mapping) else nested("path", source) for source in sources]
        return expanded

    def open(self, root: Path, allow_commands: bool = False) -> Recordings:
        """The recordings of all sources. ValueError as `open_source` raises it."""
        parts = [source.open(root, allow_commands) for source in self.data]
        return Recordings(
            (item for part in parts for item in part),
            (row for part in parts for row in part.skipped),
            (trial for part in parts for trial in part.trials),
            (note for part in parts for note in part.notes),
        )


@dataclass(frozen=True)
class Suite:
    """A task file. root: the folder of relative paths (default: that of the file). seeds: of heads and batches."""

    tasks: Mapping[str, SuiteEntry]
    root: str = ""
    seeds: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a task file must name at least one task under 'tasks'")
        if not self.seeds:
            raise ValueError("seeds must name at least one seed")

    def choose(self, names: Sequence[str]) -> Suite:
        """The entries with these names, or with tasks of these names; all for ``all`` or no names. ValueError for unknown names."""
        wanted = [name for name in names if name != "all"]
        if not wanted:
            return self
        available = {*self.tasks, *(entry.task.name for entry in self.tasks.values())}
        for name in wanted:
            if name not in available:
                raise ValueError(f"the task file has no task '{name}'{suggestion(name, available)}")
        kinds = set(wanted) - set(self.tasks)  # an entry's name selects only that entry
        tasks = {name: entry for name, entry in self.tasks.items() if name in wanted or entry.task.name in kinds}
        return replace(self, tasks=tasks)


def load_suite(
    source: str | Path, overrides: Sequence[str] = (), root: str | Path | None = None, schedule: str | None = None
) -> Suite:
    """Reads a task file, or a shipped one by name, with overrides ``key=value``. ConfigError lists all mistakes.

    schedule: "superb" gives the benchmark's schedule to all probes whose entry does not set its number of steps.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        if str(source) not in recipes.task_files():
            raise ConfigError(
                f"there is no task file '{source}'; give a .yaml file, or one of: {', '.join(recipes.task_files())}"
            )
        path = recipes.FOLDER / f"{source}.yaml"
    data = override(read_yaml(path, path.parent), overrides)
    suite = build(Suite, with_schedule(data, schedule))
    return replace(suite, root=str(root if root is not None else path.parent / suite.root))


def single(task: str, data: Sequence[str | Path], overrides: Sequence[str] = (), schedule: str | None = None) -> Suite:
    """A suite of one task on these sources; overrides set fields of the task. schedule: as in `load_suite`."""
    settings: dict[str, Any] = {"name": task}
    if overrides:
        settings = overlay(settings, override({}, overrides))
    entry = {"task": settings, "data": [{"path": str(path)} for path in data]}
    return replace(build(Suite, with_schedule({"tasks": {task: entry}}, schedule)), root=".")


def limited(recordings: Recordings, most: int) -> Recordings:
    """At most `most` recordings per split, the same on every machine: the sorted ids are cut into equal parts, and a hash chooses one
    recording from each."""
    splits: dict[str, list[Recording]] = {}
    for item in recordings:
        splits.setdefault(item.fields.get("split", ""), []).append(item)
    chosen: set[int] = set()
    for items in splits.values():
        order = sorted(items, key=lambda item: item.id)
        count = min(most, len(order))
        edges = [i * len(order) // count for i in range(count + 1)]
        for begin, end in itertools.pairwise(edges):
            chosen.add(id(min(order[begin:end], key=lambda item: draw(item.id))))
    return recordings.with_items(item for item in recordings if id(item) in chosen)


def with_schedule(data: Mapping[str, Any], schedule: str | None) -> Mapping[str, Any]:
    """The content of a task file, with the requested schedule."""
    tasks = data.get("tasks")
    if schedule is None or not isinstance(tasks, Mapping):
        return data
    entries = {
        name: {**entry, "task": scheduled(entry["task"], schedule)} if isinstance(entry, Mapping) and "task" in entry else entry
        for name, entry in tasks.items()
    }
    return {**data, "tasks": entries}


def scheduled(task: Any, schedule: str | None = None) -> Any:
    """A task's settings. In a schedule of steps, missing fields get the values of the benchmark's schedule."""
    settings = dict(task) if isinstance(task, Mapping) else nested("name", task)
    name, training = settings.get("name"), settings.get("training", {})
    name = name.value if isinstance(name, Given) else name
    kind = TASKS.get(name) if name in TASKS.names() else None
    if kind is None or not isinstance(getattr(kind.Config(), "training", None), Training) or not isinstance(training, Mapping):
        return task
    return {**settings, "training": overlay(plain(kind.superb), training)} if schedule or "steps" in training else task
