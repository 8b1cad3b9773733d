"""The recipes (how to train) and task files (what to measure) that come with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return [path.stem for path in _files() if not _is_task_file(path)]


def task_files() -> list[str]:
    """Names of the shipped task files, for `sottovoce evaluate --data`."""
    return [path.stem for path in _files() if _is_task_file(path)]


def summary(name: str) -> str:
    """The first comment line of a shipped file."""
    line = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _files() -> list[Path]:
    return sorted(FOLDER.glob("*.yaml"))


def _is_task_file(path: Path) -> bool:
    return any(line.startswith("tasks:") for line in path.read_text(encoding="utf-8").splitlines())
