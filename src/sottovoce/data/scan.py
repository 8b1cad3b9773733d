"""Turns recordings into utterances: checks durations, splits long recordings, holds out validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sottovoce.core.registry import suggestion
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.config import DataConfig
from sottovoce.data.draw import digest
from sottovoce.data.durations import allowed, lengths
from sottovoce.data.recording import Note, Recording, Recordings, Skipped, count_reasons
from sottovoce.data.splits import canonical

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of a recording for one row of a batch. start: seconds into the recording. seconds: its length. whole: whether it is the
    whole recording."""

    recording: Recording
    start: float
    seconds: float
    whole: bool = True

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
    notes: list[Note] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(utterance.seconds for utterance in self.utterances) / 3600


def scan(recordings: Sequence[Recording], config: DataConfig, progress: Progress | None = None) -> Scanned:
    """Usable utterances in the order of `recordings`, and the skipped recordings with reasons.

    The length of every file is checked (see `durations.allowed`). A recording longer than ``max_seconds`` is split into as few equal pieces
    as possible. progress: called with (done, total). Raises ValueError when nothing is usable.
    """
    source = recordings if isinstance(recordings, Recordings) else Recordings(recordings)
    wanted = source.with_items(select(source, config.where))
    file_lengths = lengths(wanted, progress=progress)
    utterances: list[Utterance] = []
    for recording in wanted:
        seconds = allowed(recording, file_lengths.get(recording.path), wanted)
        if seconds is None:
            seconds = "of unknown length"
        elif not isinstance(seconds, str) and seconds < config.min_seconds - 0.5 / SAMPLE_RATE:
            seconds = f"shorter than {config.min_seconds:g} s"
        if isinstance(seconds, str):
            wanted.skip(recording, seconds)
        else:
            utterances.extend(split(recording, seconds, config))
    if not utterances:
        short = any(row["reason"].startswith("shorter") for row in wanted.skipped)
        hint = "lower min_seconds" if short else "check the paths and files"
        raise ValueError(f"none of the {len(wanted)} recordings can be used ({count_reasons(wanted.skipped)}); {hint}")
    return Scanned(utterances, wanted.skipped, wanted.notes)


def split(recording: Recording, seconds: float, config: DataConfig) -> Iterator[Utterance]:
    """Equal pieces of at most ``max_seconds`` that cover the recording. They overlap only if needed for ``min_seconds``."""
    pieces = math.ceil(seconds / config.max_seconds - 1e-6)
    if pieces <= 1:
        yield Utterance(recording, 0.0, min(seconds, config.max_seconds))
        return
    length = max(seconds / pieces, config.min_seconds)
    for piece in range(pieces):
        yield Utterance(recording, piece * (seconds - length) / (pieces - 1), length, whole=False)


def select(recordings: Sequence[Recording], where: Mapping[str, str]) -> list[Recording]:
    """The recordings whose fields equal `where`. ValueError, with the existing columns or values, when there are none."""
    chosen = list(recordings)
    for column, value in where.items():
        values = {recording.fields[column] for recording in chosen if column in recording.fields}
        if not values:
            columns = {name for recording in chosen for name in recording.fields}
            raise ValueError(f"the data has no column '{column}' to filter by{suggestion(column, columns)}")
        accepted = {str(value)}
        if column == "split" and value not in values:  # accept other names of the same split
            accepted = {name for name in values if canonical(name) == canonical(str(value))}
        chosen = [recording for recording in chosen if recording.fields.get(column) in accepted]
        if not chosen:
            some = ", ".join(sorted(values)[:8]) + (", ..." if len(values) > 8 else "")
            raise ValueError(f"no recording has {column} = '{value}'; its values are: {some}")
    return chosen


def hold_out(utterances: Sequence[Utterance], config: DataConfig) -> tuple[list[Utterance], list[Utterance]]:
    """(train, valid). Whole recordings are held out, in the order of a hash of their id: the same choice on every machine.

    At most ``valid_share`` of the audio and ``valid_max_seconds`` are held out; if no recording fits, the shortest one is. What a held-out
    recording has beyond ``valid_max_seconds`` is not used at all.
    """
    seconds: dict[str, float] = {}
    for utterance in utterances:
        seconds[_group(utterance)] = seconds.get(_group(utterance), 0.0) + utterance.seconds
    if len(seconds) < 2 or not config.valid_share or not config.valid_max_seconds:
        return list(utterances), []
    limit = min(config.valid_share * sum(seconds.values()), config.valid_max_seconds)
    order = sorted(seconds, key=lambda name: (digest(name, 8), name))
    held_out, total = set(), 0.0
    for name in order:
        if total + seconds[name] <= limit:
            held_out.add(name)
            total += seconds[name]
    if not held_out:
        held_out = {min(order, key=lambda name: seconds[name])}
    train = [utterance for utterance in utterances if _group(utterance) not in held_out]
    valid: list[Utterance] = []
    total = 0.0
    for utterance in utterances:
        if _group(utterance) in held_out and (not valid or total + utterance.seconds <= config.valid_max_seconds):
            valid.append(utterance)
            total += utterance.seconds
    return train, valid


def _group(utterance: Utterance) -> str:
    return utterance.recording.group or utterance.recording.id
