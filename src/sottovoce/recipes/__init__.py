"""The recipes (how to train) and task files (what to measure) that come with the package."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

FOLDER = Path(__file__).parent
AUTO = "auto"  # in place of a recipe: `sottovoce.train.auto` takes one
AUTO_SUMMARY = "Takes one of these recipes, by the teacher and the hours that there are (--hours), and says why."


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return [path.stem for path in _files() if not _is_task_file(path)]


def task_files() -> list[str]:
    """Names of the shipped task files, for `sottovoce evaluate --data`."""
    return [path.stem for path in _files() if _is_task_file(path)]


def summary(name: str) -> str:
    """The first sentence of the comment that a shipped file begins with."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return first_sentence(
        " ".join(line.removeprefix("#") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    )


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    return re.split(r"(?<=[.!?])(?<!al\.)(?<!e\.g\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _files() -> list[Path]:
    return sorted(FOLDER.glob("*.yaml"))


def _is_task_file(path: Path) -> bool:
    return any(line.startswith("tasks:") for line in path.read_text(encoding="utf-8").splitlines())
