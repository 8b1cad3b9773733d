"""What there is to choose from, by name, with the first line of its description."""

from __future__ import annotations

from sottovoce import recipes
from sottovoce.core.registry import CORPORA, FAMILIES, OBJECTIVES, STAGES, STUDENTS, TASKS, TEACHER_KINDS, UNITS, Registry

REGISTRIES: dict[str, Registry] = {
    "teachers": FAMILIES,
    "teacher-kinds": TEACHER_KINDS,
    "objectives": OBJECTIVES,
    "students": STUDENTS,
    "tasks": TASKS,
    "stages": STAGES,
    "corpora": CORPORA,
    "units": UNITS,
}


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, summary) of everything of a kind: a registry's, or ``recipes``."""
    if kind == "recipes":
        return [(name, recipes.summary(name)) for name in recipes.recipes()]
    registry = REGISTRIES[kind]
    found = [(name, registry.summary(name).replace("`", "")) for name in registry.names()]
    if kind == "teachers":
        found.insert(0, ("demo", "The built-in small teacher; the rest are families of checkpoints, by folder or hub id."))
    if kind == "tasks":
        found += [(name, f"{recipes.summary(name)} (a task file, for --data)") for name in recipes.task_files()]
    return found
