"""Targets on disk, so that a teacher answers for a recording once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sottovoce.core.types import Batch

FORMAT = 1  # of an entry
CHECK = 4  # bytes of a checksum before the tensors of an entry
IDLE = 3600.0  # seconds without use after which a set may be deleted
TOUCHED = 60.0  # seconds after which the use of a set is noted again
Row = dict[str, Tensor]  # of one recording: "hidden.3", "ffn.3" (T, D), or "vector" (D,)


class TargetStore:
    """Targets of whole recordings on disk, in half precision, up to `limit` bytes in all.

    An entry is a teacher's answer for a recording. Its name is a digest of the samples, and its set, a folder, is named by a digest of the
    teacher and of what is asked, so the same audio has the same entry in all epochs and runs. Entries are written atomically; a damaged
    entry counts as missing. When the limit is reached, the sets that were not used for the longest time are deleted, none that was used
    within an hour. If that is not enough, or the disk is full, nothing more is kept. `say` is told once of either.
    """

    def __init__(self, folder: Path, limit: float, say: Callable[[str], None] = print, share: int = 1) -> None:
        """share: the number of processes that fill the folder together."""
        self.folder, self.limit, self.say, self.stopped = folder, limit, say, False
        self.room = (limit - size_of(folder)) / share
        self._used: dict[str, float] = {}  # sets of this process, and when it last noted their use
        self._deleted = False

    def row_keys(self, batch: Batch) -> tuple[str, ...]:
        """A digest of the audio of each row. The batch is on the CPU."""
        ends = [batch.wave.shape[1]] * len(batch.wave) if batch.lengths is None else batch.lengths.tolist()
        rows = [row[:end].numpy().tobytes() for row, end in zip(batch.wave, ends, strict=True)]
        return tuple(hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows)

    def rows(self, asked: str, keys: Sequence[str], answer: Callable[[], Sequence[Row]]) -> list[Row]:
        """The entries of a batch. asked: which teacher, and what of its answer. answer: gives the entries of all rows; it is called if
        one is missing, and what was missing is written."""
        name = digest(asked)
        self._note_use(name)
        rows = [self._read(name, key) for key in keys]
        if None not in rows:
            return [row for row in rows if row is not None]
        fresh = answer()
        for key, row, new in zip(keys, rows, fresh, strict=True):
            if row is None:
                self._write(name, key, new)
        return [new if row is None else row for row, new in zip(rows, fresh, strict=True)]

    def _read(self, name: str, key: str) -> Row | None:
        """The entry; ``None`` if it is missing or damaged."""
        path = self.folder / name / key[:2] / key
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        try:
            if int.from_bytes(entry[:CHECK], "big") == zlib.crc32(entry[CHECK:]):
                return tensors_of(entry[CHECK:])
        except SafetensorError:
            pass
        path.unlink(missing_ok=True)
        self.room += len(entry)
        return None

    def _write(self, name: str, key: str, row: Row) -> None:
        """Writes an entry, if there is room."""
        if self.stopped:
            return
        tensors = bytes_of(row)
        if not self._has_room(len(tensors)):
            self._stop(f"{self.limit / 1e9:g} GB are full (data.keep_targets), and all of it was used within an hour")
            return
        path = self.folder / name / key[:2] / key
        part = path.with_name(f"{key}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(zlib.crc32(tensors).to_bytes(CHECK, "big") + tensors)
            os.replace(part, path)
        except OSError as problem:
            part.unlink(missing_ok=True)
            self._stop(f"they cannot be written ({problem.strerror})")
            return
        self.room -= len(tensors) + CHECK

    def _note_use(self, name: str) -> None:
        """The time of a set's folder says when it was last used."""
        now = time.time()
        if now - self._used.get(name, 0.0) > TOUCHED:
            self._used[name] = now
            with contextlib.suppress(OSError):  # not there yet, or a folder that may only be read
                os.utime(self.folder / name)

    def _has_room(self, size: int) -> bool:
        """Whether there is room for so many bytes, if need be after old sets are deleted."""
        if size <= self.room:
            return True
        others: list[tuple[float, str]] = []
        with contextlib.suppress(OSError):  # another run deletes, too
            others = sorted(
                (entry.stat().st_mtime, entry.path) for entry in os.scandir(self.folder) if entry.name not in self._used
            )
        for used, path in others:
            if time.time() - used < IDLE:
                break
            before = size_of(path)
            shutil.rmtree(path, ignore_errors=True)
            self.room += before - size_of(path)
            if not self._deleted:
                self._deleted = True
                self.say(
                    f"targets of earlier runs are deleted in {self.folder}, the oldest first, to stay within {self.limit / 1e9:g} GB"
                )
            if size <= self.room:
                return True
        return False

    def _stop(self, why: str) -> None:
        self.stopped = True
        self.say(f"no more targets are kept in {self.folder}: {why}; the teacher computes the rest in every epoch")


def digest(what: str) -> str:
    """The name of a set of targets."""
    return hashlib.blake2b(f"{FORMAT} {what}".encode(), digest_size=16).hexdigest()


def size_of(folder: str | Path) -> int:
    """Bytes of the files in a folder, without those that vanish meanwhile; 0 if it is not there."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(parent, name)).st_size
    return size
