"""How long recordings are: as long as their files allow, whatever a manifest says. Lengths of files are kept for the next time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sottovoce.data.decode import BadAudio, header_seconds
from sottovoce.data.files import MISSING, fault
from sottovoce.data.recording import Recording, Recordings, Timed, file_state

Progress = Callable[[int, int], None]
State = tuple[int, ...]  # see `file_state`

SLICE = 4096  # files whose lengths are kept at a time: a stop loses no more
FILE = "lengths.sqlite"  # what is kept before the name changed believed every header
TOLERATED = 0.1  # seconds by which a manifest may be wrong without a note: rounding, a decoder's padding
LONGEST_UNSEEN = 24 * 3600.0  # seconds that are believed of a recording whose audio cannot be looked at


def present(recordings: Recordings) -> Recordings:
    """The recordings whose files are there; the others are in ``skipped``. Opens nothing."""
    available = recordings.with_items(())
    for item in recordings:
        why = "" if item.loader is not None else fault(item.path)
        if why:
            available.skip(item, why)
        else:
            available.append(item)
    return available


def timed(recordings: Recordings, cache: Path | None = None, progress: Progress | None = None) -> Recordings:
    """The recordings, each with the duration that its file allows; those whose file cannot be read are in ``skipped``, with the reason.

    kept: a file for the lengths that were read; an audio file whose size and time of change are what they were is not opened again. A
    file that cannot be written to is no error. progress: called with (done, to do). A recording that is said to be longer than its file
    is used as far as the file goes, with a note.
    """
    file_lengths = lengths(recordings, cache, progress)
    usable = recordings.with_items(())
    for item in recordings:
        seconds = allowed(item, file_lengths.get(item.path), usable)
        if isinstance(seconds, str):
            usable.skip(item, seconds)
        else:
            usable.append(item if item.duration == seconds else replace(item, duration=seconds))
    return usable


def allowed(item: Recording, length: float | str | None, into: Recordings) -> float | str | None:
    """Seconds of the recording that its file has, or why there are none. length: of the file, as `lengths` gives it. Notes go to `into`."""
    if item.loader is not None:
        try:
            length = item.loader.seconds() if isinstance(item.loader, Timed) else None
        except BadAudio as problem:
            return problem.reason
        except Exception as problem:  # of a foreign reader
            return f"unreadable ({type(problem).__name__})"
        if length is None:
            return "said to be longer than a day" if (item.duration or 0.0) > LONGEST_UNSEEN else item.duration
    if length is None:
        return MISSING
    if isinstance(length, str):
        return length
    left = length - item.start
    if left <= 0:
        return "starts after its end"
    if item.duration is None:
        return left
    if item.duration > left + TOLERATED:
        into.note(item.path, f"said to be {item.duration:g} s long; there are {left:.2f} s, which are used")
    return min(item.duration, left)


def lengths(
    recordings: Iterable[Recording], cache: Path | None = None, progress: Progress | None = None
) -> dict[str, float | str]:
    """Path -> seconds, or why there are none, of all plain files."""
    paths = list(dict.fromkeys(item.path for item in recordings if item.loader is None))
    known = {} if cache is None else _read(cache, paths)
    states = {path: file_state(path) for path in paths} if cache is not None else {}
    results: dict[str, float | str] = {path: known[path][1] for path in paths if path in known and known[path][0] == states[path]}
    todo = [path for path in paths if path not in results]
    done = len(results)
    with ThreadPoolExecutor(max_workers=8) as pool:
        for begin in range(0, len(todo), SLICE):  # in slices: an executor takes all its work at once
            part = todo[begin : begin + SLICE]
            fresh: dict[str, tuple[State, float]] = {}
            for path, length in zip(part, pool.map(_length, part), strict=True):
                results[path] = length
                state = states.get(path)
                if state and not isinstance(length, str):
                    fresh[path] = state, length
                done += 1
                if progress is not None and (done % 256 == 0 or done == len(paths)):
                    progress(done, len(paths))
            if cache is not None:
                _write(cache, fresh)
    return results


def _length(path: str) -> float | str:
    try:
        return header_seconds(path)
    except BadAudio as problem:
        return problem.reason
    except Exception as problem:  # a decoder's own
        return f"unreadable ({type(problem).__name__})"


def _read(file: Path, paths: Iterable[str]) -> dict[str, tuple[State, float]]:
    """What is kept of the paths."""
    entries: dict[str, tuple[State, float]] = {}
    with contextlib.suppress(sqlite3.Error, OSError):
        if file.is_file():
            with contextlib.closing(sqlite3.connect(file)) as database:
                for path in paths:
                    ask = database.execute("SELECT size, changed, seconds FROM lengths WHERE path = ?", (_name(path),))
                    for size, changed, seconds in ask:
                        entries[path] = (size, changed), seconds
    return entries


def _write(file: Path, lengths: Mapping[str, tuple[State, float]]) -> None:
    rows = [(_name(path), *state, seconds) for path, (state, seconds) in lengths.items()]
    with contextlib.suppress(sqlite3.Error, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS lengths (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, seconds REAL)"
            )
            database.executemany("INSERT OR REPLACE INTO lengths VALUES (?, ?, ?, ?)", rows)


def _name(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))
