"""Registries: one file adds one thing.

A class decorated with ``@OBJECTIVES.register("name")`` in a module of ``sottovoce.objectives`` can be used by name, is shown by
``sottovoce list`` and is covered by the contract tests. The same holds for the other registries at the end of this file. Other packages
add classes through the entry-point group ``sottovoce.objectives`` (and so on), whose entries name modules to import.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sottovoce.recipes import first_sentence

T = TypeVar("T", bound=type[Any])


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all known names if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names) or 'none'}"


class Registry:
    """Maps names to classes of one kind. The first lookup imports every module of the kind's package."""

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind  # plural; names the entry-point group, and by default the package
        self.package = package or f"sottovoce.{kind}"
        self._items: dict[str, type] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            known = self._items.get(name, item)
            if (known.__module__, known.__qualname__) != (item.__module__, item.__qualname__):
                raise ValueError(f"two {self.kind} are named '{name}': {self._items[name]} and {item}")
            setattr(item, "name", name)  # noqa: B010  # registered classes declare `name`; `type` does not
            self._items[name] = item
            return item

        return add

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for entry in importlib.metadata.entry_points(group=f"sottovoce.{self.kind}"):
            entry.load()
        self._loaded = True

    def names(self) -> list[str]:
        self._load()
        return sorted(self._items)

    def get(self, name: str) -> Any:
        """The class registered under `name`. ValueError with the nearest known name if there is none."""
        self._load()
        if name not in self._items:
            raise ValueError(f"no {self.kind} named '{name}'{suggestion(name, self._items)}")
        return self._items[name]

    def summary(self, name: str) -> str:
        """The first sentence of the class's docstring, for listings."""
        return first_sentence((self.get(name).__doc__ or "").split("\n\n")[0])


FAMILIES = Registry("families")
STUDENTS = Registry("students")
OBJECTIVES = Registry("objectives")
TASKS = Registry("tasks")
STAGES = Registry("stages", "sottovoce.train.stages")
TEACHER_KINDS = Registry("teacher-kinds", "sottovoce.train.teachers")
CORPORA = Registry("corpora", "sottovoce.data.corpora")
DEGRADATIONS = Registry("degradations", "sottovoce.data.degradations")
UNITS = Registry("units", "sottovoce.pruning.units")
IMPORTANCES = Registry("importances", "sottovoce.pruning.importance")
HOSTS = Registry("hosts")
