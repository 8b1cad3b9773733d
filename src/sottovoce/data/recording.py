"""What a source lists: recordings, and why some of them cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sottovoce.data.files import printable

Samples = NDArray[np.float32]
Loader = Callable[[float, float], tuple[Samples, int]]


class Skipped(TypedDict):
    """A recording left out, or a manifest row (``path`` is then ``manifest:line``). id: of a recording that is a part of its file."""

    path: str
    reason: str
    id: NotRequired[str]


class Note(TypedDict):
    """Something that a source says and that is not taken as it stands, while the recordings are used. path: of the source or a row."""

    path: str
    note: str


@runtime_checkable
class Timed(Protocol):
    """A loader that can tell how long its audio is, in seconds; None where it cannot. Raises BadAudio."""

    def seconds(self) -> float | None: ...


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
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return status.st_size, status.st_mtime_ns


class Recordings(list[Recording]):
    """Recordings of a source.

    skipped: the manifest rows that could not be understood, the listed files that are not there. trials: the pairs that a speaker
    verification test compares, as (id, id, whether the speaker is the same). notes: what is said once of a source that is used.
    """

    def __init__(
        self,
        items: Iterable[Recording] = (),
        skipped: Iterable[Skipped] = (),
        trials: Iterable[Trial] = (),
        notes: Iterable[Note] = (),
    ) -> None:
        super().__init__(items)
        self.skipped: list[Skipped] = list(skipped)
        self.trials: list[Trial] = list(trials)
        self.notes: list[Note] = list(notes)

    def with_items(self, items: Iterable[Recording]) -> Recordings:
        """Other recordings, of which the same is said."""
        return Recordings(items, self.skipped, self.trials, self.notes)

    def skip(self, recording: Recording, reason: str) -> None:
        self.skipped.append(skipped(recording, reason))

    def note(self, path: str | os.PathLike[str], text: str) -> None:
        self.notes.append(Note(path=os.fspath(path), note=text))


def skipped(recording: Recording, reason: str) -> Skipped:
    """The row for a recording that is left out; it has the id where the recording is only a part of its file."""
    if recording.start or recording.group not in ("", recording.id):
        return Skipped(path=recording.path, reason=reason, id=recording.id)
    return Skipped(path=recording.path, reason=reason)


def distinct(recordings: Recordings) -> Recordings:
    """The recordings, each under an id of its own. One that is the same in all is skipped; another one gets a number behind its id."""
    ids: dict[str, Recording] = {}
    items: list[Recording] = []
    renamed = 0
    for item in recordings:
        if item.id in ids:
            first = ids[item.id]
            if _same(first, item):
                recordings.skip(item, "the same recording again")
                continue
            name, number = item.id, 2
            if item.channel not in (None, first.channel) and f"{item.id}@{item.channel}" not in ids:
                name = f"{item.id}@{item.channel}"
            while name in ids:
                name, number = f"{item.id}~{number}", number + 1
            item = replace(item, id=name, group=item.group or item.id)
            renamed += 1
        ids[item.id] = item
        items.append(item)
    if renamed:
        what = "1 recording has" if renamed == 1 else f"{renamed} recordings have"
        recordings.note(next(item.path for item in items), f"{what} the id of another one; a number behind it tells them apart")
    return recordings.with_items(items)


def _same(one: Recording, other: Recording) -> bool:
    keys = ("path", "start", "duration", "channel", "fields", "loader")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def count_reasons(skipped: Iterable[Skipped]) -> str:
    """``3 not audio, 1 empty file``, most frequent first."""
    counts: dict[str, int] = {}
    for row in skipped:
        counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def summary_of(notes: Iterable[Note]) -> list[str]:
    """The notes in words; of a kind with more than two, one and how many there are."""
    kinds: dict[str, list[Note]] = {}
    for row in notes:
        kinds.setdefault(re.sub(r"[\d.]+", "#", row["note"]), []).append(row)
    texts = []
    for rows in kinds.values():
        shown = [f"{printable(os.path.basename(row['path']))}: {row['note']}" for row in rows[: 2 if len(rows) < 3 else 1]]
        texts.append(", ".join(shown) + (f" (and {len(rows) - 1} more like it)" if len(rows) > 2 else ""))
    return texts
