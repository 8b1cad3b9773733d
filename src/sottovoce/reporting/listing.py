"""What there is to choose from: names, each with the first sentence of its description."""

from __future__ import annotations

from sottovoce import recipes
from sottovoce.core.registry import (
    CORPORA,
    DEGRADATIONS,
    FAMILIES,
    IMPORTANCES,
    OBJECTIVES,
    STAGES,
    STUDENTS,
    TASKS,
    TEACHER_KINDS,
    UNITS,
    Registry,
)

REGISTRIES: dict[str, Registry] = {
    "teachers": FAMILIES,
    "teacher-kinds": TEACHER_KINDS,
    "objectives": OBJECTIVES,
    "students": STUDENTS,
    "tasks": TASKS,
    "stages": STAGES,
    "corpora": CORPORA,
    "units": UNITS,
    "importances": IMPORTANCES,
    "degradations": DEGRADATIONS,
}


KINDS = {
    "recipes": "how to train, for compress and pretrain",
    "teachers": "models that can be TEACHER, by family",
    "teacher-kinds": "ways to learn from a teacher",
    "students": "what a student starts from",
    "objectives": "what a student learns",
    "stages": "what a run consists of",
    "units": "what pruning can remove",
    "importances": "how units are ranked without gates",
    "tasks": "what evaluate measures",
    "corpora": "corpora whose own layout is read",
    "degradations": "what can be done to recordings",
}


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, summary) of everything of a kind: a registry's, or ``recipes``; of the kinds themselves where `kind` is empty."""
    if not kind:
        return list(KINDS.items())
    if kind == "recipes":
        return [(recipes.AUTO, recipes.AUTO_SUMMARY), *((name, recipes.summary(name)) for name in recipes.recipes())]
    registry = REGISTRIES[kind]
    listed = [(name, registry.summary(name).replace("`", "")) for name in registry.names()]
    if kind == "teachers":
        listed[:0] = [
            ("demo", "The built-in small teacher. The others are families of checkpoints; give a folder or a hub id."),
            ("demo-quality", "The built-in model that scores recordings, which quality-score takes where no model is named."),
        ]
    if kind == "tasks":
        listed += [(name, f"{recipes.summary(name)} (a task file, for --data)") for name in recipes.task_files()]
    return listed
