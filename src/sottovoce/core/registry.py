"""Registries: one file adds one thing.

A module of ``sottovoce.objectives`` (or families, students, tasks) that says ``@OBJECTIVES.register("name")`` is found by name, listed
by ``sottovoce list`` and covered by the contract tests. Other packages add theirs through the entry-point group
``sottovoce.objectives`` (and so on), whose entries name a module to import. The readers of corpora are found in the same way: their
package is ``sottovoce.data.corpora``, their group ``sottovoce.corpora``; and so are kinds of units, in ``sottovoce.pruning.units``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T", bound=type[Any])


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' for a misspelt name, or the list of what exists when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names) or 'none'}"


class Registry:
    """Names to classes of one kind. Looking anything up first imports every module of the kind's package."""

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind  # plural; names the entry-point group, and the package where that is not given
        self.package = package or f"sottovoce.{kind}"
        self._items: dict[str, type] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            known = self._items.get(name, item)
            if (known.__module__, known.__qualname__) != (item.__module__, item.__qualname__):
                raise ValueError(f"two {self.kind} are named '{name}': {self._items[name]} and {item}")
            setattr(item, "name", name)  # noqa: B010  # classes declare `name`; a bare type does not
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
        """The class registered under `name`; ValueError with the nearest known name otherwise."""
        self._load()
        if name not in self._items:
            raise ValueError(f"no {self.kind} named '{name}'{suggestion(name, self._items)}")
        return self._items[name]

    def summary(self, name: str) -> str:
        """First line of the class's docstring, for listings."""
        return (self.get(name).__doc__ or "").strip().split("\n")[0]


FAMILIES = Registry("families")
STUDENTS = Registry("students")
OBJECTIVES = Registry("objectives")
TASKS = Registry("tasks")
STAGES = Registry("stages", "sottovoce.train.stages")
TEACHER_KINDS = Registry("teacher-kinds", "sottovoce.train.teachers")
CORPORA = Registry("corpora", "sottovoce.data.corpora")
UNITS = Registry("units", "sottovoce.pruning.units")
