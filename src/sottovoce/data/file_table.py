"""What is known of files, kept in an SQLite file with the state in which each file was."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

State = tuple[int, ...]  # see `recording.file_state`


@dataclass(frozen=True)
class FileTable:
    """A value for each file. A table that cannot be read counts as empty; one that cannot be written is left alone.

    file: of the table. name, column, kind: its name in SQL, the name of the value and its SQL type.
    """

    file: Path
    name: str
    column: str
    kind: str

    def read(self, paths: Iterable[str]) -> dict[str, tuple[State, Any]]:
        """Path -> (state, value) for the paths in the table."""
        entries: dict[str, tuple[State, Any]] = {}
        with contextlib.suppress(sqlite3.Error, OSError):
            if self.file.is_file():
                with contextlib.closing(sqlite3.connect(self.file)) as database:
                    for path in paths:
                        query = f"SELECT size, changed, {self.column} FROM {self.name} WHERE path = ?"
                        for size, changed, value in database.execute(query, (_key(path),)):
                            entries[path] = (size, changed), value
        return entries

    def write(self, entries: Mapping[str, tuple[State, Any]]) -> None:
        """Adds or replaces entries."""
        rows = [(_key(path), *state, value) for path, (state, value) in entries.items()]
        columns = f"path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, {self.column} {self.kind}"
        with contextlib.suppress(sqlite3.Error, OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.file)) as database, database:
                database.execute(f"CREATE TABLE IF NOT EXISTS {self.name} ({columns})")
                database.executemany(f"INSERT OR REPLACE INTO {self.name} VALUES (?, ?, ?, ?)", rows)


def _key(path: str) -> bytes:
    """A name is bytes: any file name works."""
    return os.fsencode(os.path.abspath(path))
