"""Checkpoints that make a killed run harmless: written under a temporary name, then renamed; tensors and plain values only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class CannotSave(OSError):
    """The disk is full or not writable; what was saved before is still whole."""

    @classmethod
    def at(cls, path: Path, problem: Exception) -> CannotSave:
        return cls(f"could not save {path}: {problem}; free some space and run the same command again to go on")


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` so that `path` always holds either the old or the new checkpoint, whenever the process or machine dies."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as problem:  # torch reports a failed write as RuntimeError
        temporary.unlink(missing_ok=True)
        raise CannotSave.at(path, problem) from None


def load(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or ``None`` when there is none. Only tensors and plain values are read; code never runs."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise ValueError(f"{path} is not a readable checkpoint ({problem}); run with --fresh to start over") from None
    return present_form(state)


def present_form(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a version that kept the gates' part of it apart, as it is kept now."""
    if "phase" in state:
        return state
    phase = {key: state[key] for key in ("kept", "lagrangian") if key in state}
    return {**{key: value for key, value in state.items() if key not in phase}, "phase": phase}


def random_state() -> dict[str, Any]:
    """State of every random generator that a run draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
