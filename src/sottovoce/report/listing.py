"""What there is to choose from, by name, with the first line of its description."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from sottovoce.registry import FAMILIES, OBJECTIVES, STUDENTS, TASKS, Registry

REGISTRIES: dict[str, Registry] = {"teachers": FAMILIES, "objectives": OBJECTIVES, "students": STUDENTS, "tasks": TASKS}


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, summary) of everything of a kind: a registry's, or ``recipes``."""
    if kind == "recipes":
        return [(file.name[:-5], _first_comment(file.read_text(encoding="utf-8"))) for file in _recipes()]
    registry = REGISTRIES[kind]
    found = [(name, registry.summary(name).replace("`", "")) for name in registry.names()]
    if kind == "teachers":
        found.insert(0, ("demo", "The built-in small teacher; the rest are families of checkpoints, by folder or hub id."))
    return found


def _recipes() -> list[Traversable]:
    files = resources.files("sottovoce.recipes").iterdir()
    return sorted((file for file in files if file.name.endswith(".yaml")), key=lambda file: file.name)


def _first_comment(text: str) -> str:
    line = text.split("\n", 1)[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""
