"""How long recordings are whose source does not say: read from the headers of the files, and kept for the next time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sottovoce.data.decode import BadAudio, header_seconds
from sottovoce.data.recording import Recordings, Skipped, file_state

Progress = Callable[[int, int], None]
State = tuple[int, ...]  # see `file_state`

SLICE = 4096  # files whose lengths are kept at a time: a stop loses no more
FILE = "durations.sqlite"


def present(recordings: Recordings) -> Recordings:
    """The recordings whose files are there; the others are in ``skipped``. Opens nothing."""
    made = Recordings(skipped=recordings.skipped, trials=recordings.trials)
    for item in recordings:
        if item.loader is not None or os.path.isfile(item.path):
            made.append(item)
        else:
            made.skipped.append(Skipped(path=item.path, reason="missing"))
    return made


def timed(recordings: Recordings, kept: Path | None = None, progress: Progress | None = None) -> Recordings:
    """The recordings, each with its duration; those whose header cannot be read are in ``skipped``, with the reason.

    kept: a file for the lengths that were read; an audio file whose size and time of change are what they were is not opened again. A
    file that cannot be written to is no error. progress: called with (done, to do). Audio that is no plain file keeps the duration it has.
    """
    paths = list(dict.fromkeys(item.path for item in recordings if item.duration is None and item.loader is None))
    if not paths:
        return recordings
    found = _lengths(paths, kept, progress)
    made = Recordings(skipped=recordings.skipped, trials=recordings.trials)
    for item in recordings:
        length = found.get(item.path)
        if item.duration is not None or item.loader is not None or length is None:
            made.append(item)
        elif isinstance(length, str):
            made.skipped.append(Skipped(path=item.path, reason=length))
        elif length <= item.start:
            made.skipped.append(Skipped(path=item.path, reason="starts after its end"))
        else:
            made.append(replace(item, duration=length - item.start))
    return made


def _lengths(paths: list[str], kept: Path | None, progress: Progress | None) -> dict[str, float | str]:
    """Path -> seconds, or why there are none."""
    known = {} if kept is None else _read(kept, paths)
    states = {path: file_state(path) for path in paths}
    found: dict[str, float | str] = {path: known[path][1] for path in paths if path in known and known[path][0] == states[path]}
    todo = [path for path in paths if path not in found]
    done = len(found)
    with ThreadPoolExecutor(max_workers=8) as pool:
        for begin in range(0, len(todo), SLICE):
            part = todo[begin : begin + SLICE]
            fresh: dict[str, tuple[State, float]] = {}
            for path, length in zip(part, pool.map(_length, part), strict=True):
                found[path] = length
                state = states[path]
                if state and not isinstance(length, str):
                    fresh[path] = state, length
                done += 1
                if progress is not None:
                    progress(done, len(paths))
            if kept is not None:
                _write(kept, fresh)
    return found


def _length(path: str) -> float | str:
    try:
        return header_seconds(path)
    except BadAudio as problem:
        return problem.reason
    except (OSError, ValueError) as problem:  # a name the system does not take
        return f"unreadable ({type(problem).__name__})"


def _read(file: Path, paths: Iterable[str]) -> dict[str, tuple[State, float]]:
    """What is kept of the paths."""
    made: dict[str, tuple[State, float]] = {}
    with contextlib.suppress(sqlite3.Error, OSError):
        if file.is_file():
            with contextlib.closing(sqlite3.connect(file)) as base:
                for path in paths:
                    ask = base.execute("SELECT size, changed, seconds FROM lengths WHERE path = ?", (_name(path),))
                    for size, changed, seconds in ask:
                        made[path] = (size, changed), seconds
    return made


def _write(file: Path, lengths: Mapping[str, tuple[State, float]]) -> None:
    rows = [(_name(path), *state, seconds) for path, (state, seconds) in lengths.items()]
    with contextlib.suppress(sqlite3.Error, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file)) as base, base:
            base.execute(
                "CREATE TABLE IF NOT EXISTS lengths (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, seconds REAL)"
            )
            base.executemany("INSERT OR REPLACE INTO lengths VALUES (?, ?, ?, ?)", rows)


def _name(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))
