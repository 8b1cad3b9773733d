"""Records of measurements: what was measured, on which data, with which settings and on which machine. Records are never edited.

A folder of results keeps them in one file, `RECORDS`, one JSON object per line, oldest first (decision 0019).
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

SCHEMA = 1
RECORDS = "records.jsonl"

ODD_NAMES = "backslashreplace"  # bytes of a file's name that are no UTF-8: what is written for them is the escape of JSON too


def header(kind: str) -> dict[str, Any]:
    """The fields that every record has: schema, kind, version, commit, date and machine."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "sottovoce": version("sottovoce"),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Appends `record` to a ``.jsonl`` file, or replaces the content of any other file. Never leaves half a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        append(path, [json.dumps(finite(record), ensure_ascii=False, allow_nan=False)])
    else:
        write_atomically(path, dump(record))


def append(path: Path, lines: Sequence[str]) -> None:
    """Appends `lines`. Safe for several processes at a time; an unfinished line of a killed process stays a line of its own."""
    with FileLock(f"{path}.lock"), path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        start = "\n" if file.read(1) not in (b"", b"\n") else ""
        file.write((start + "".join(f"{line}\n" for line in lines)).encode("utf-8", ODD_NAMES))
        file.flush()
        os.fsync(file.fileno())


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a ``.jsonl`` file, with their numbers from 1."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # text may hold other ends of lines
        if line.strip():
            yield number, line


def read_all(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.jsonl`` file, oldest first, without unfinished lines; empty if there is no file."""
    records = []
    for _, line in lines(path) if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def task_version(evaluation: Mapping[str, Any]) -> int:
    """The task version of an evaluation's record. Records from before versions existed have version 1."""
    return int(evaluation["task"].get("version", 1))


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: if the process dies, the file is the old or the new one."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8", errors=ODD_NAMES) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def dump(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """The same nested data with null for numbers that are not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def portable(value: Any) -> Any:
    """The same nested data with local paths reduced to their last part, because records are shared and folders are private."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists() else value


def read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def machine() -> dict[str, Any]:
    """Describes this machine and the versions of Python and libraries."""
    description: dict[str, Any] = {
        "system": platform.system(),
        "cpu": _cpu(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name()
    return description


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The source checkout's commit, with '+' if it has changes; ``None`` for an installed package.

    Cached: a long measurement asks at its start, because the checkout may change before its end.
    """
    here = Path(__file__).parents[1]
    if not (here.parents[1] / ".git").exists():
        return None
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "."], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if dirty else "")
