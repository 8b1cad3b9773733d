"""Checkpoints of a run. Kills, full disks and damaged files cost at most the updates since the checkpoint before.

The two newest checkpoints are kept. ``checkpoints.json`` lists them, newest first, with the SHA-256 of each file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from sottovoce.core.ledger import write_atomically

LIST = "checkpoints.json"
SLOTS = ("checkpoint-a.pt", "checkpoint-b.pt")
SINGLE = "checkpoint.pt"  # the only checkpoint of earlier versions, without a digest


class CannotSave(OSError):
    """The disk is full or not writable; what was saved before is intact."""

    @classmethod
    def at(cls, path: Path, problem: Exception) -> CannotSave:
        return cls(f"could not save {path}: {problem}; free some space and run the same command again to go on")


class Checkpoints:
    """The checkpoints in the folder of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any]) -> None:
        """Writes `state`, whenever the process or machine dies, beside the checkpoint before it.

        CannotSave if writing fails; the checkpoints so far are then as they were.
        """
        listed = self._listed()
        newest = listed[0]["file"] if listed else ""
        path = self.folder / next(slot for slot in SLOTS if slot != newest)
        temporary = path.with_name(path.name + ".part")
        try:
            with temporary.open("wb") as file:
                hashed = _Hashed(file)
                torch.save(state, hashed)  # type: ignore[arg-type]  # all that torch calls is `write` and `flush`
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            entry = {"file": path.name, "sha256": hashed.digest, "stage": state["stage"], "step": state["step"]}
            before = [each for each in listed if each["file"] != path.name][:1]
            write_atomically(self.folder / LIST, json.dumps([entry, *before], indent=1))
        except (OSError, RuntimeError) as problem:  # torch reports a failed write as RuntimeError
            temporary.unlink(missing_ok=True)
            raise CannotSave.at(path, problem) from None
        (self.folder / SINGLE).unlink(missing_ok=True)

    def load(self, stage: str, say: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
        """The newest sound checkpoint of `stage`, or ``None`` if there is none. Only tensors and plain values are read; code never runs.

        `say` names each damaged checkpoint; the one before it is used instead. Without any, the stage starts over.
        """
        for entry in self._listed():
            if entry["stage"] != stage:
                continue
            path = self.folder / entry["file"]
            state = _read(path) if path.exists() and digest_of(path) == entry["sha256"] else None
            if state is not None:
                return present_form(state)
            say(f"{path.name}, the checkpoint of update {entry['step']} of {stage}, is damaged or missing and is not used")
        path = self.folder / SINGLE
        if not path.exists():
            return None
        state = _read(path)
        if state is None:
            say(f"{path.name} is damaged and is not used")
            return None
        return present_form(state) if state["stage"] == stage else None

    def clear(self) -> None:
        """Removes all checkpoints: their stage is done."""
        for name in (LIST, *SLOTS, SINGLE):
            (self.folder / name).unlink(missing_ok=True)

    def _listed(self) -> list[dict[str, Any]]:
        """Entries of the list, newest first. A list that cannot be read counts as none."""
        try:
            entries = json.loads((self.folder / LIST).read_text(encoding="utf-8"))
            return [entry for entry in entries if entry["file"] in SLOTS and {"sha256", "stage", "step"} <= entry.keys()]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []


class _Hashed:
    """A file to write to that keeps the SHA-256 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """``None`` if the file cannot be read as a checkpoint."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for damaged files
        return None
    return state if isinstance(state, dict) and {"stage", "step"} <= state.keys() else None


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
