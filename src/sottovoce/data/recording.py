"""The recordings of a source, and the reasons why some cannot be used."""

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
    """A skipped recording or manifest row (``path`` is then ``manifest:line``). id: of a recording that is only a part of its file."""

    path: str
    reason: str
    id: NotRequired[str]


class Note(TypedDict):
    """A remark about a source whose recordings are used, for example a corrected value. path: the source, a row or a file."""

    path: str
    note: str


@runtime_checkable
class Timed(Protocol):
    """A loader that knows the duration of its audio in seconds; None when unknown. Raises BadAudio."""

    def seconds(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Recording:
    """A stretch of one audio file.

    id: name within its source, the same on every machine (a relative path, a cut's id). path: the file. start: start of the stretch in
    the file, seconds. duration: seconds, ``None`` when only the file's header has it. channel: index of the channel; ``None`` averages all.
    fields: the other columns of the manifest (text, speaker, language, split, ...), as text. group: recordings of one group (pieces of one
    file) are held out together; default: the id. loader: for audio that is not a plain file: ``loader(start, seconds) -> ((frames,
    channels) float32, sample rate)``, picklable. Its optional method ``identity() -> str`` changes when the audio changes; caches use it.
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
    """(size in bytes, time of change in ns) of a file, () when it is missing. Caches use it to detect a changed file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return status.st_size, status.st_mtime_ns


class Recordings(list[Recording]):
    """Recordings of a source.

    skipped: rows that cannot be used and files that are missing. trials: pairs of a speaker verification test, as (id, id, whether the
    speaker is the same). notes: remarks about the source.
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
        """Other recordings with the same skipped rows, trials and notes."""
        return Recordings(items, self.skipped, self.trials, self.notes)

    def skip(self, recording: Recording, reason: str) -> None:
        self.skipped.append(skipped(recording, reason))

    def note(self, path: str | os.PathLike[str], text: str) -> None:
        self.notes.append(Note(path=os.fspath(path), note=text))


def skipped(recording: Recording, reason: str) -> Skipped:
    """The row for a skipped recording; it has an id if the recording is only a part of its file."""
    if recording.start or recording.group not in ("", recording.id):
        return Skipped(path=recording.path, reason=reason, id=recording.id)
    return Skipped(path=recording.path, reason=reason)


def distinct(recordings: Recordings) -> Recordings:
    """The recordings with unique ids. An exact duplicate is skipped; another recording with a used id gets its channel or a number."""
    ids: dict[str, Recording] = {}
    items: list[Recording] = []
    renamed = 0
    for item in recordings:
        if item.id in ids:
            first = ids[item.id]
            if _same(first, item):
                recordings.skip(item, "duplicate recording")
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
        recordings.note(next(item.path for item in items), f"{what} the id of another one; a suffix makes it unique")
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
    """The notes as text. Notes that differ only in numbers are grouped; of more than two, one and the count are shown."""
    kinds: dict[str, list[Note]] = {}
    for row in notes:
        kinds.setdefault(re.sub(r"[\d.]+", "#", row["note"]), []).append(row)
    texts = []
    for rows in kinds.values():
        shown = [f"{printable(os.path.basename(row['path']))}: {row['note']}" for row in rows[: 2 if len(rows) < 3 else 1]]
        texts.append(", ".join(shown) + (f" (and {len(rows) - 1} more like it)" if len(rows) > 2 else ""))
    return texts
