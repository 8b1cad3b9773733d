"""The base class of corpus readers, and the functions that they share.

A reader lists the same audio with the same ids as a plain folder and adds fields (exceptions are in its docstring). A recording without
labels in its corpus is kept without fields. A row of a list that is malformed or whose file is missing is skipped with a reason. The
fields, all text:

- ``split``: train, dev or test, as SUPERB uses the corpus; absent for recordings that it does not use
- ``text``, ``label``, ``speaker``, ``language``, ``fold``
- ``intent``: a JSON object of names and values; ``slots``: a JSON list of [slot, value] in the order of the words, or a JSON object
- ``turns``: a JSON list of [start, end, speaker] in seconds, see `sottovoce.data.turns.turns_of`
- ``role``: query or doc; ``matches``: for a doc, a JSON list of the ids of the queries that it contains
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

from sottovoce.data.manifests import read_lines
from sottovoce.data.recording import Recording, Recordings, Skipped


class Corpus(ABC):
    """A corpus in the layout of its publisher. Listings show the first line of a reader's docstring."""

    name: ClassVar[str]

    @abstractmethod
    def matches(self, folder: Path) -> bool:
        """Whether the folder is this corpus. Checks a few names and opens no audio. False when in doubt."""

    @abstractmethod
    def read(self, folder: Path) -> Recordings:
        """All recordings of a folder that matches. ValueError when a required list is missing."""


def labelled(items: Recordings, describe: Callable[[str], Mapping[str, str]]) -> Recordings:
    """The recordings, each with the fields that `describe` gives for its id."""
    return items.with_items(replace(item, fields=describe(item.id)) for item in items)


def missing(
    listed: Mapping[str, str], present: Iterable[str], part: Callable[[str], Hashable] = lambda name: None
) -> list[Skipped]:
    """Skipped rows for the `listed` names (name -> where it is listed) that are not `present`.

    part: name -> part of the corpus. Parts without any present name are ignored, since users may download only some parts.
    """
    names = set(present)
    parts = {part(name) for name in names}
    return [row(where, "missing") for name, where in listed.items() if name not in names and part(name) in parts]


def row(where: str, reason: str) -> Skipped:
    return {"path": where, "reason": reason}


def required(path: Path, advice: str) -> Path:
    """The path. ValueError with the advice when it is not a file."""
    if not os.path.isfile(path):
        raise ValueError(f"{path} is missing; {advice}")
    return path


def required_lines(path: Path, advice: str) -> list[tuple[str, str]]:
    """(``path:number``, line) of the lines that are not blank. ValueError with the advice when it is not a file."""
    lines = read_lines(required(path, advice))
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def optional_lines(path: Path, skipped: list[Skipped]) -> list[tuple[str, str]]:
    """`required_lines` of a file that may be missing. An unreadable file is added to `skipped`."""
    try:
        return required_lines(path, "") if os.path.isfile(path) else []
    except ValueError:
        skipped.append(row(str(path), "list that cannot be read"))
        return []


def peek(folder: Path, pattern: str, most: int = 64) -> Path | None:
    """One of the first `most` entries of the folder whose full name matches the pattern; None when there is none."""
    try:
        with os.scandir(folder) as entries:
            return next((Path(entry.path) for entry in islice(entries, most) if re.fullmatch(pattern, entry.name)), None)
    except OSError:
        return None


def pieces(item: Recording, seconds: float, length: float = 1.0) -> list[Recording]:
    """Pieces of `length` seconds of a recording of `seconds` seconds; drops the remainder."""
    return [
        replace(item, id=f"{item.id}#{number * length:g}", start=number * length, duration=length, group=item.id)
        for number in range(int(seconds / length + 1e-6))
    ]
