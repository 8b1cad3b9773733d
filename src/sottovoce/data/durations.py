"""Durations of recordings, limited by the length of their files. File lengths are cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sottovoce.data.decode import BadAudio, header_seconds
from sottovoce.data.file_table import FileTable, State
from sottovoce.data.files import MISSING, fault
from sottovoce.data.recording import Recording, Recordings, Timed, file_state

Progress = Callable[[int, int], None]

SLICE = 4096  # files between two writes of the cache; an interrupt loses at most these
FILE = "lengths.sqlite"  # an older cache under another name believed every header; do not reuse that name
TOLERATED = 0.1  # seconds that a manifest's duration may exceed the file without a note (rounding, padding of a decoder)
LONGEST_UNSEEN = 24 * 3600.0  # seconds; a longer claim is refused where the audio cannot be checked


def present(recordings: Recordings) -> Recordings:
    """The recordings whose files exist; the others are in ``skipped``. Opens no file."""
    available = recordings.with_items(())
    for item in recordings:
        reason = "" if item.loader is not None else fault(item.path)
        if reason:
            available.skip(item, reason)
        else:
            available.append(item)
    return available


def timed(recordings: Recordings, cache: Path | None = None, progress: Progress | None = None) -> Recordings:
    """The recordings with durations limited by their files; those whose file cannot be read are in ``skipped``, with the reason.

    cache: file for the lengths. A cached audio file is not opened again until its size or time of change differs. A cache that cannot be
    written is no error. progress: called with (done, total). A recording that claims to be longer than its file is cut to the file, with a
    note.
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
    """Usable seconds of a recording (None: unknown), or why it has none. length: of its file, see `lengths`. into: gets notes."""
    if item.loader is not None:
        try:
            length = item.loader.seconds() if isinstance(item.loader, Timed) else None
        except BadAudio as problem:
            return problem.reason
        except Exception as problem:  # from another library
            return f"unreadable ({type(problem).__name__})"
        if length is None:
            return "claims to be longer than a day" if (item.duration or 0.0) > LONGEST_UNSEEN else item.duration
    if length is None:
        return MISSING
    if isinstance(length, str):
        return length
    left = length - item.start
    if left <= 0:
        return "starts after the end of its file"
    if item.duration is None:
        return left
    if item.duration > left + TOLERATED:
        into.note(item.path, f"claims {item.duration:g} s but has {left:.2f} s, which are used")
    return min(item.duration, left)


def lengths(
    recordings: Iterable[Recording], cache: Path | None = None, progress: Progress | None = None
) -> dict[str, float | str]:
    """Path -> seconds, or the reason why a file cannot be read. Covers recordings without a loader; parameters as in `timed`."""
    paths = list(dict.fromkeys(item.path for item in recordings if item.loader is None))
    known = {} if cache is None else _table(cache).read(paths)
    states = {path: file_state(path) for path in paths} if cache is not None else {}
    results: dict[str, float | str] = {path: known[path][1] for path in paths if path in known and known[path][0] == states[path]}
    unknown = [path for path in paths if path not in results]
    done = len(results)
    with ThreadPoolExecutor(max_workers=8) as pool:
        for begin in range(0, len(unknown), SLICE):  # in slices: an executor takes all its work at once
            part = unknown[begin : begin + SLICE]
            new: dict[str, tuple[State, float]] = {}
            for path, length in zip(part, pool.map(_length, part), strict=True):
                results[path] = length
                state = states.get(path)
                if state and not isinstance(length, str):
                    new[path] = state, length
                done += 1
                if progress is not None and (done % 256 == 0 or done == len(paths)):
                    progress(done, len(paths))
            if cache is not None:
                _table(cache).write(new)
    return results


def _length(path: str) -> float | str:
    try:
        return header_seconds(path)
    except BadAudio as problem:
        return problem.reason
    except Exception as problem:  # from a decoder
        return f"unreadable ({type(problem).__name__})"


def _table(cache: Path) -> FileTable:
    return FileTable(cache, "lengths", "seconds", "REAL")
