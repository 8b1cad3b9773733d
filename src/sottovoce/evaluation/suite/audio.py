"""A digest of the content of all audio files, to notice files that have changed under the same name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sottovoce.data import Recordings
from sottovoce.data.file_table import FileTable
from sottovoce.data.recording import Recording, file_state

Progress = Callable[[int, int], None]
FILE = "digests.sqlite"
CHUNK = 1 << 20  # bytes read at a time
SLICE = 4096  # files whose digests are stored at a time


def audio_digest(recordings: Recordings, store: Path | None = None, progress: Progress | None = None) -> str | None:
    """Digest of the content of all files of `recordings`, the same on every machine; ``None`` if one cannot be read.

    store: an SQLite file with digests of single files; files whose size and time of change are the same are not read again. progress:
    called with (files done, files in all).
    """
    paths = list(dict.fromkeys(path for item in recordings for path in files_of(item)))
    states = {path: file_state(path) for path in paths}
    if not paths or not all(states.values()):
        return None
    stored = {} if store is None else _table(store).read(paths)
    digests = {path: stored[path][1] for path in paths if path in stored and stored[path][0] == states[path]}
    todo = [path for path in paths if path not in digests]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for begin in range(0, len(todo), SLICE):
            part = todo[begin : begin + SLICE]
            fresh: dict[str, tuple[tuple[int, ...], str]] = {}
            for path, digest in zip(part, pool.map(_digest, part), strict=True):
                if digest is None:
                    return None
                digests[path], fresh[path] = digest, (states[path], digest)
                if progress is not None:
                    progress(len(digests), len(paths))
            if store is not None:
                _table(store).write(fresh)
    digest_of_all = hashlib.blake2b(digest_size=8)
    for item in sorted(recordings, key=lambda item: item.id):  # the digest also depends on which recording has which file
        digest_of_all.update(repr((item.id, [digests[path] for path in files_of(item)])).encode("utf-8", "surrogateescape"))
    return digest_of_all.hexdigest()


def files_of(recording: Recording) -> tuple[str, ...]:
    """The files of a recording's audio; none if its loader does not list them."""
    named = getattr(recording.loader, "files", None)
    if isinstance(named, (list, tuple)):
        return tuple(map(str, named))
    return (recording.path,) if recording.loader is None or os.path.isfile(recording.path) else ()


def _digest(path: str) -> str | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _table(store: Path) -> FileTable:
    return FileTable(store, "digests", "digest", "TEXT")
