"""Recognises the columns of a manifest that name the audio file and the stretch of it, under their common names and units.

A stretch has a start, an end and a length, each in seconds (``start``, ``end_time``, ``duration``), milliseconds (``begin_ms``) or
samples at the file's own rate (``frame_offset``, ``num_frames``, ``end_sample``). Two columns for the same value must agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

PATHS = (
    "path", "audio_filepath", "audio_path", "audio", "audio_file", "audiofile", "file", "filename", "file_name", "filepath", "file_path",
    "wav", "wav_path", "wav_file", "wav_filename",
)  # fmt: skip
CHANNEL = "channel"
ABSENT = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))  # empty cells of a number column, in any case

Role = Literal["start", "end", "length"]
Unit = Literal["s", "ms", "samples"]

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("start", "begin", "onset", "offset"), "start"),
    **dict.fromkeys(("end", "stop", "finish"), "end"),
    **dict.fromkeys(("duration", "dur", "length", "len"), "length"),
}  # fmt: skip
UNITS: Mapping[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("sample", "samples", "frame", "frames", "nframes", "nsamples"), "samples"),
}  # fmt: skip
FILLING = frozenset(
    ("time", "times", "at", "audio", "segment", "seg", "utt", "utterance", "clip", "in", "pos", "position", "index", "idx")
)
COUNT = frozenset(("num", "number", "n", "of", "total", "count", "nb"))
TEXTS = frozenset(("text", "word", "words", "token", "tokens", "char", "chars", "sentence", "transcript", "phone", "phones"))
SHORT = frozenset(("s", "ms", "sample", "frame"))  # a column with only this name is not a length
UNCERTAIN = frozenset(("length", "len"))  # may be the length of a text, unless there is also a start column
GLUED = re.compile(r"(start|begin|end|stop|onset|offset)(times?|sec|seconds|ms|frames?|samples?)(?![a-z])")
SPLITTER = re.compile(r"[^0-9a-z]+")
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


@dataclass(frozen=True)
class Column:
    name: str
    role: Role
    unit: Unit


@dataclass(frozen=True)
class Layout:
    """Columns of a row. path: the audio file. times: start, end, length. unused: columns that look like times but are not used. known: all
    columns that do not become fields."""

    path: str = ""
    times: tuple[Column, ...] = ()
    unused: tuple[str, ...] = ()
    known: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a file, in seconds. duration None: to the end of the file."""

    start: float = 0.0
    duration: float | None = None


@cache
def layout(keys: tuple[str, ...]) -> Layout:
    """The layout of a row with these keys."""
    columns = {key: meaning for key in keys if (meaning := _meaning(key)) is not None}
    starts = [key for key, (role, unit) in columns.items() if role == "start" and unit]
    tokens = {key: _tokens(key) for key in columns}
    if any("onset" in tokens[key] for key in starts):  # onset and offset are the two ends of an event
        columns |= {key: ("end", columns[key][1]) for key in starts if "offset" in tokens[key]}
        starts = [key for key in starts if columns[key][0] == "start"]
    times, unused = [], []
    for key, (role, unit) in columns.items():
        if unit is None or key == "n_frames" or (tokens[key] & UNCERTAIN and not starts):
            unused.append(key)
        else:
            times.append(Column(key, role, unit))
    path = next((name for name in PATHS if name in keys), "")
    known = frozenset((path, CHANNEL, *(column.name for column in times)))
    return Layout(path, tuple(times), tuple(unused), known)


def _tokens(name: str) -> set[str]:
    apart = GLUED.sub(r"\1_\2", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return set(filter(None, SPLITTER.split(apart)))


def _meaning(name: str) -> tuple[Role, Unit | None] | None:
    """(role, unit) of a column; unit None: not understood. None for a column that does not look like a time."""
    tokens = _tokens(name)
    roles, units = {ROLES[word] for word in tokens if word in ROLES}, {UNITS[word] for word in tokens if word in UNITS}
    others = tokens - ROLES.keys() - UNITS.keys() - FILLING - COUNT
    if len(roles) == 1 and not others & TEXTS:
        (role,) = roles
        return role, next(iter(units), "s") if not others and len(units) <= 1 else None
    if not roles and len(units) == 1 and not others and (len(tokens) > 1 or not tokens & SHORT):
        return "length", next(iter(units))
    return None


def samples(layout: Layout, row: Mapping[str, Any]) -> bool:
    """Whether the row gives its stretch in samples, so that the file's sample rate is needed."""
    return any(column.unit == "samples" and not absent(row.get(column.name)) for column in layout.times)


def stretch(layout: Layout, row: Mapping[str, Any], rate: int = 0) -> Stretch:
    """The stretch of a row. rate: sample rate of the file in Hz, for columns in samples. ValueError when the columns are invalid."""
    values: dict[Role, tuple[float, str]] = {}
    for unit in ("s", "ms", "samples"):  # seconds first: samples may differ by rounding
        scale = {"s": 1.0, "ms": 1e-3, "samples": 1 / rate if rate else math.nan}[unit]
        for column in layout.times:
            if column.unit != unit or (value := number(row.get(column.name), column.name)) is None:
                continue
            value *= scale
            if column.role in values and abs(values[column.role][0] - value) > 0.02:
                raise ValueError(f"{values[column.role][1]} and {column.name} contradict each other")
            values.setdefault(column.role, (value, column.name))
    start = values["start"][0] if "start" in values else 0.0
    length = values["length"][0] if "length" in values else 0.0  # 0: unknown
    if "end" in values:
        end, name = values["end"]
        if end <= start:
            raise ValueError(f"{name} is not after the beginning")
        if length and abs(start + length - end) > 0.02 + 0.001 * end:
            raise ValueError(f"{values['length'][1]} and {name} contradict each other")
        length = end - start
    return Stretch(start, length or None)


def absent(value: Any) -> bool:
    """Whether a cell of a number column is empty, in any spelling of pandas or Python (``nan``, ``None``, ...)."""
    if isinstance(value, str):
        return value.strip().lower() in ABSENT
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any, name: str) -> float | None:
    """The number in a cell, None for an empty one. name: the column. ValueError for text, negative and infinite numbers."""
    if absent(value):
        return None
    try:
        parsed = _clock(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is not a number") from None
    if isinstance(value, bool) or not math.isfinite(parsed) or parsed < 0:
        raise ValueError(f"{name} is not a time")
    return parsed


def _clock(text: str) -> float:
    """Seconds of a number, which may have a decimal comma, or of a clock time such as ``1:02:03.5``."""
    if match := CLOCK.fullmatch(text.strip()):
        hours, minutes, seconds = match.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
    return float(text.replace(",", ".") if re.fullmatch(r"\s*\d+,\d+\s*", text) else text)


def channel(value: Any) -> int | None:
    """Channel index from 0 on, None for an empty cell. Accepts 0.0, as pandas writes it. ValueError for anything else."""
    if absent(value):
        return None
    try:
        index = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("channel is not a number") from None
    if isinstance(value, bool) or not 0 <= index < 2**31 or index != int(index):
        raise ValueError("channel is not a whole number from 0 on")
    return int(index)
