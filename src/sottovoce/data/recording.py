"""What a source lists: recordings, and why some of them cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Loader = Callable[[float, float], tuple[Samples, int]]


class Skipped(TypedDict):
    """A recording left out, or a manifest row (``path`` is then ``manifest:line``)."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A stretch of one audio file.

    id: name within its source, the same on every machine (a relative path, a cut's id). path: the file. start: where the stretch
    begins in the file, seconds. duration: seconds, ``None`` when only the file's header knows. channel: which channel to take;
    ``None`` averages them. fields: the other columns of the manifest (text, speaker, language, split, ...), as text.
    group: recordings of one group (pieces of one file) are held out together; defaults to the id.
    loader: for audio that is not a plain file: ``loader(start, seconds) -> ((frames, channels) float32, sample rate)``, picklable. Its
    method ``identity() -> str``, where it has one, says what decides the audio, so that nothing kept of it outlives a change.
    """

    id: str
    path: str
    start: float = 0.0
    duration: float | None = None
    channel: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str = ""
    loader: Loader | None = field(default=None, hash=False)


Trial = tuple[str, str, bool]


def file_state(path: str) -> tuple[int, ...]:
    """(size in bytes, time of change in ns) of a file, () where there is none: what is kept of a file is of this state of it."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_size, found.st_mtime_ns


class Recordings(list[Recording]):
    """Recordings of a source.

    skipped: the manifest rows that could not be understood, the listed files that are not there. trials: the pairs that a speaker
    verification test compares, as (id, id, whether the speaker is the same).
    """

    def __init__(self, items: Iterable[Recording] = (), skipped: Iterable[Skipped] = (), trials: Iterable[Trial] = ()) -> None:
        super().__init__(items)
        self.skipped: list[Skipped] = list(skipped)
        self.trials: list[Trial] = list(trials)


def count_reasons(skipped: Iterable[Skipped]) -> str:
    """``3 not audio, 1 empty file``, most frequent first."""
    counts: dict[str, int] = {}
    for row in skipped:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
