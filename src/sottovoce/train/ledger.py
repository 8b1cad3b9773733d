"""The record of a finished run: what was asked, on what, with what outcome and at what cost. One JSON, never edited."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

import sottovoce
from sottovoce.config import plain
from sottovoce.export.card import Card
from sottovoce.train.run import Run

SCHEMA = 1


def record(run: Run, cost: Mapping[str, float]) -> dict[str, Any]:
    """Gathers what the stages wrote."""
    stages = [found for name in run.recipe.stages if (found := run.done(name)) is not None]
    made: dict[str, Any] = {
        **header("run"),
        "recipe": portable(plain(run.recipe)),
        "seed": run.recipe.seed,
        "data": {"source": Path(run.spec).name, "hours": round(run.data.hours, 3), "skipped": len(run.data.skipped)},
        "cost": dict(cost),
        "stages": [{key: value for key, value in stage.items() if key != "kept"} for stage in stages],
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
    }
    for stage in stages:
        made.update({key: stage[key] for key in ("budget", "fidelity") if key in stage})
    return made


def header(kind: str) -> dict[str, Any]:
    """What every result says of itself: schema, kind, version, commit and machine."""
    return {"schema": SCHEMA, "kind": kind, "sottovoce": sottovoce.__version__, "commit": commit(), "machine": machine()}


def portable(value: Any) -> Any:
    """The same nested data with local paths cut down to their last part: records are shared, folders are private."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists() else value


def dump(made: Mapping[str, Any]) -> str:
    return json.dumps(made, indent=1) + "\n"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    made = {"system": platform.system(), "cpu": _cpu(), "threads": torch.get_num_threads()}
    made |= {"python": platform.python_version(), "torch": torch.__version__, "transformers": metadata.version("transformers")}
    if torch.cuda.is_available():
        made["gpu"] = torch.cuda.get_device_name()
    return made


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """The source checkout's commit, with '+' when it has changes; ``None`` for an installed package."""
    here = Path(__file__).parent
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


def card(run: Run, made: Mapping[str, Any]) -> Card:
    """What the model card says: only what this run measured."""
    numbers = [
        {"measure": "parameters", "value": f"{made['cost']['params']:,.0f}"},
        {"measure": "multiply-accumulates per second of audio", "value": f"{made['cost']['macs_per_s']:,.0f}"},
    ]
    if "budget" in made:
        numbers.append({"measure": "budget", "value": made["budget"]["text"]})
    if "fidelity" in made:
        mean = made["fidelity"]["mean"]
        numbers.append(
            {"measure": "cosine to the teacher, mean over layers, held-out recordings", "value": f"{mean['cosine']:.3f}"}
        )
        numbers.append({"measure": "the same after the best linear map", "value": f"{mean['mapped']:.3f}"})
    return Card(numbers=numbers, recipe=yaml.safe_dump(made["recipe"], sort_keys=False), data=run.data.summary())
