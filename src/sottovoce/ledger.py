"""The ledger of results: one JSON per finished measurement, which says what was asked, on what, on which machine. Never edited."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SCHEMA = 1


def header(kind: str) -> dict[str, Any]:
    """What every result says of itself: schema, kind, version, commit, day and machine."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "sottovoce": version("sottovoce"),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
    }


def write(path: Path, record: Mapping[str, Any]) -> None:
    """`record` as JSON at `path`, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump(record))


def write_atomically(path: Path, text: str) -> None:
    """The file is either the old one or the new one, whenever the process dies."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def dump(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def portable(value: Any) -> Any:
    """The same nested data with local paths cut down to their last part: records are shared, folders are private."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists() else value


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    made = {"system": platform.system(), "cpu": _cpu(), "threads": torch.get_num_threads()}
    made |= {"python": platform.python_version(), "torch": torch.__version__, "transformers": version("transformers")}
    if torch.cuda.is_available():
        made["gpu"] = torch.cuda.get_device_name()
    return made


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
    """The source checkout's commit, with '+' when it has changes; ``None`` for an installed package.

    Found once in a process: long measurements ask when they begin, since by their end the checkout may have moved on.
    """
    here = Path(__file__).parent
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
