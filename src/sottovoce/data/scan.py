"""From recordings to utterances: durations, splitting of long recordings, the held-out part, and what was skipped and why."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sottovoce.core.registry import suggestion
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.config import DataConfig
from sottovoce.data.decode import BadAudio, header_seconds
from sottovoce.data.draw import digest
from sottovoce.data.recording import Recording, Skipped, count_reasons

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of a recording that one row of a batch comes from. start: seconds into the recording; seconds: its length."""

    recording: Recording
    start: float
    seconds: float

    @property
    def samples(self) -> int:
        return round(self.seconds * SAMPLE_RATE)

    @property
    def id(self) -> str:
        return f"{self.recording.id}@{self.start:.2f}" if self.start else self.recording.id


@dataclass(frozen=True)
class Scanned:
    utterances: list[Utterance]
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(utterance.seconds for utterance in self.utterances) / 3600


def scan(recordings: Sequence[Recording], config: DataConfig, progress: Progress | None = None) -> Scanned:
    """Usable utterances, in the order of `recordings`; the rest with reasons.

    A file is looked at only when its recording has no duration; otherwise only its presence is checked. A recording longer than
    ``max_seconds`` becomes the fewest equal pieces that are short enough, so that every second of it is used.
    `progress` is called with (done, total). Raises ValueError when nothing is usable.
    """
    skipped: list[Skipped] = list(getattr(recordings, "skipped", []))
    wanted = select(recordings, config.where)
    utterances: list[Utterance] = []
    with ThreadPoolExecutor(max_workers=8) as pool:
        # In slices: an executor takes all its work at once, and a corpus may have millions of rows.
        for base in range(0, len(wanted), 4096):
            part = wanted[base : base + 4096]
            for recording, found in zip(part, pool.map(_seconds, part), strict=True):
                if isinstance(found, str):
                    skipped.append({"path": recording.path, "reason": found})
                elif found < config.min_seconds - 0.5 / SAMPLE_RATE:
                    skipped.append({"path": recording.path, "reason": f"shorter than {config.min_seconds:g} s"})
                else:
                    utterances.extend(split(recording, found, config))
            if progress is not None:
                progress(base + len(part), len(wanted))
    if not utterances:
        short = any(row["reason"].startswith("shorter") for row in skipped)
        hint = "lower min_seconds" if short else "check the paths and files"
        raise ValueError(f"none of the {len(wanted)} recordings can be used ({count_reasons(skipped)}); {hint}")
    return Scanned(utterances, skipped)


def _seconds(recording: Recording) -> float | str:
    """Length of a recording, or why it has none."""
    try:
        if recording.duration is not None:
            if recording.loader is None and not os.path.isfile(recording.path):
                return "a folder, not a file" if os.path.isdir(recording.path) else "missing"
            return recording.duration
        seconds = header_seconds(recording.path) - recording.start
        return seconds if seconds > 0 else "starts after its end"
    except BadAudio as problem:
        return problem.reason
    except (OSError, ValueError) as problem:  # a name the system does not take
        return f"unreadable ({type(problem).__name__})"


def split(recording: Recording, seconds: float, config: DataConfig) -> Iterator[Utterance]:
    """Equal pieces of at most ``max_seconds`` that cover the recording; they overlap only to stay above ``min_seconds``."""
    pieces = math.ceil(seconds / config.max_seconds - 1e-6)
    if pieces <= 1:
        yield Utterance(recording, 0.0, min(seconds, config.max_seconds))
        return
    length = max(seconds / pieces, config.min_seconds)
    for piece in range(pieces):
        yield Utterance(recording, piece * (seconds - length) / (pieces - 1), length)


def select(recordings: Sequence[Recording], where: Mapping[str, str]) -> list[Recording]:
    """The recordings whose fields equal `where`. ValueError names the columns or values there are."""
    chosen = list(recordings)
    for column, value in where.items():
        values = {recording.fields[column] for recording in chosen if column in recording.fields}
        if not values:
            columns = {name for recording in chosen for name in recording.fields}
            raise ValueError(f"the data has no column '{column}' to filter by{suggestion(column, columns)}")
        chosen = [recording for recording in chosen if recording.fields.get(column) == str(value)]
        if not chosen:
            some = ", ".join(sorted(values)[:8]) + (", ..." if len(values) > 8 else "")
            raise ValueError(f"no recording has {column} = '{value}'; its values are: {some}")
    return chosen


def hold_out(utterances: Sequence[Utterance], config: DataConfig) -> tuple[list[Utterance], list[Utterance]]:
    """(train, valid). Whole recordings are held out, in the order of a hash of their id, so the choice survives a change of machine.

    Up to ``valid_share`` of the audio and ``valid_max_seconds``; when no recording fits, the shortest one. Where a held-out recording is
    longer than ``valid_max_seconds``, the rest of it is used for neither.
    """
    seconds: dict[str, float] = {}
    for utterance in utterances:
        seconds[_group(utterance)] = seconds.get(_group(utterance), 0.0) + utterance.seconds
    if len(seconds) < 2 or not config.valid_share or not config.valid_max_seconds:
        return list(utterances), []
    allowed = min(config.valid_share * sum(seconds.values()), config.valid_max_seconds)
    order = sorted(seconds, key=lambda name: (digest(name, 8), name))
    held, total = set(), 0.0
    for name in order:
        if total + seconds[name] <= allowed:
            held.add(name)
            total += seconds[name]
    if not held:
        held = {min(order, key=lambda name: seconds[name])}
    train = [utterance for utterance in utterances if _group(utterance) not in held]
    valid: list[Utterance] = []
    total = 0.0
    for utterance in utterances:
        if _group(utterance) in held and (not valid or total + utterance.seconds <= config.valid_max_seconds):
            valid.append(utterance)
            total += utterance.seconds
    return train, valid


def _group(utterance: Utterance) -> str:
    return utterance.recording.group or utterance.recording.id
