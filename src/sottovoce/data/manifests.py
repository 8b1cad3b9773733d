"""Manifests: tables with a ``path`` column, fairseq's tsv, JSON lines, lists of paths."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.decode import BadAudio, header_rate
from sottovoce.data.recording import Recording, Recordings, Skipped

PATHS = ("path", "audio_filepath", "audio_path", "audio")
STARTS, DURATIONS, CHANNEL = ("start", "offset"), ("duration", "seconds"), "channel"
EXTRA, RTTM = "extra", "rttm"
MALFORMED = "malformed manifest row"


class Base:
    """The folder that relative paths start from: the first of the candidates below which one of the first rows exists."""

    def __init__(self, manifest: Path, names: Iterable[str]) -> None:
        self.home = self.folder = home = manifest.absolute().parent
        sample = [name for _, name in zip(range(32), names, strict=False) if name and not os.path.isabs(name)]
        for folder in (home, home / "clips", home.parent):
            if any(os.path.exists(folder / name) for name in sample):
                self.folder = folder
                break

    def __call__(self, name: str) -> str:
        return name if os.path.isabs(name) else os.path.join(self.folder, name)

    def beside(self, name: str) -> str:
        """Path of a file that is no audio: labels may stay with the manifest while the audio is elsewhere."""
        path = self(name)
        return path if os.path.exists(path) or not os.path.exists(self.home / name) else os.path.join(self.home, name)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or gzip. ValueError when it is not text in UTF-8."""
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; save the manifest as UTF-8") from None
    except (OSError, EOFError) as problem:
        raise ValueError(f"cannot read {path}: {problem}") from None
    return text.replace("\r\n", "\n").split("\n")  # not splitlines: transcripts may hold other separators


def read_table(path: Path) -> Recordings:
    """A csv or tsv with a header, or a fairseq tsv."""
    lines = read_lines(path)
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} is empty; it must have a header with a 'path' column and one row for each recording")
    if _is_fairseq(lines):
        return _read_fairseq(path, lines)
    separator = max("\t,;", key=lines[0].count)
    rows = split_rows(lines, separator)
    _, head = next(rows)
    columns = [name.strip().strip('"').lower() for name in head or []]
    if not set(columns) & set(PATHS):
        shown = ", ".join(columns)[:200]
        raise ValueError(
            f"{path} has no 'path' column; its first line reads: {shown}. Add a header whose audio column is named 'path'"
        )
    found: list[tuple[str, Mapping[str, Any]]] = []
    skipped: list[Skipped] = []
    for number, cells in rows:
        if cells is None or len(cells) != len(columns):
            skipped.append({"path": f"{path}:{number}", "reason": MALFORMED})
        else:
            found.append((f"{path}:{number}", dict(zip(columns, cells, strict=True))))
    return _from_rows(path, found, skipped)


def split_rows(lines: list[str], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """(line number, cells) of every row that is not blank; None for cells that cannot be told apart."""
    if separator == "\t":  # quotes mean nothing in a tsv, and one lone quote in a transcript must not swallow rows
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line.split("\t")
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield reader.line_num, None
            continue
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.removesuffix("\n") for cell in cells]


def _is_fairseq(lines: list[str]) -> bool:
    if len(lines) < 2 or not lines[0].strip() or "\t" in lines[0] or "," in lines[0]:
        return False
    cells = lines[1].split("\t")
    return len(cells) == 2 and cells[1].strip().isdigit()


def _read_fairseq(path: Path, lines: list[str]) -> Recordings:
    root = Path(lines[0].strip())
    if not root.is_absolute():
        root = path.absolute().parent / root
    if not root.is_dir():
        raise ValueError(f"the first line of {path} names the folder {root}, which does not exist; correct it")
    made = Recordings()
    rate = 0
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, _, frames = line.partition("\t")
        if not name or not frames.strip().isdigit():
            made.skipped.append({"path": f"{path}:{number}", "reason": MALFORMED})
            continue
        file = os.path.join(root, name)
        if not rate:  # the manifest counts frames at the files' own rate, and does not say which
            with contextlib.suppress(BadAudio):
                rate = header_rate(file)
        made.append(Recording(name, file, duration=int(frames) / (rate or SAMPLE_RATE) or None))
    return made


def read_json_lines(path: Path) -> Recordings:
    """NeMo's JSON lines, or Lhotse cuts."""
    from sottovoce.data.lhotse_sets import is_cut, read_cuts

    found: list[tuple[str, Mapping[str, Any]]] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            skipped.append({"path": f"{path}:{number}", "reason": MALFORMED})
        elif not found and is_cut(row):
            return read_cuts(path)
        else:
            found.append((f"{path}:{number}", row))
    if not found:
        raise ValueError(
            f'{path} holds no JSON objects, one for each line; each must look like {{"audio_filepath": ..., "duration": ...}}'
        )
    if not any(key in row for _, row in found for key in PATHS):
        keys = ", ".join(sorted(found[0][1])[:12])
        raise ValueError(
            f"the rows of {path} have neither 'audio_filepath' nor 'path', and are no Lhotse cuts; they have: {keys}"
        )
    return _from_rows(path, found, skipped)


def read_list(path: Path) -> Recordings:
    """A text file with one path a line."""
    return _from_rows(
        path, [(f"{path}:{n}", {"path": line.strip()}) for n, line in enumerate(read_lines(path), 1) if line.strip()], []
    )


def _from_rows(path: Path, rows: list[tuple[str, Mapping[str, Any]]], skipped: list[Skipped]) -> Recordings:
    base = Base(path, (str(_first(row, PATHS) or "") for _, row in rows))
    made = Recordings(skipped=skipped)
    for where, row in rows:
        try:
            made.append(_recording(row, base))
        except (TypeError, ValueError):
            made.skipped.append({"path": where, "reason": MALFORMED})
    return made


def _recording(row: Mapping[str, Any], base: Base) -> Recording:
    name = _first(row, PATHS)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError("no path")
    start = _number(_first(row, STARTS)) or 0.0
    duration = _number(_first(row, DURATIONS)) or None
    channel = row.get(CHANNEL)
    known = {*PATHS, *STARTS, *DURATIONS, CHANNEL}
    fields = {key: _text(value) for key, value in row.items() if key not in known and value is not None}
    for key, value in _pairs(fields.get(EXTRA, "")):
        fields[key] = fields.get(key) or value
    if fields.get(RTTM):
        fields[RTTM] = base.beside(fields[RTTM])
    return Recording(
        id=f"{name}#{start:g}" if start else name,
        path=base(name),
        start=start,
        duration=duration,
        channel=None if channel in (None, "") else int(channel),
        fields=fields,
        group=name,
    )


def _pairs(extra: str) -> Iterator[tuple[str, str]]:
    """The pairs of ``key=value; key=value``; nothing of JSON text or of plain words."""
    if extra.lstrip().startswith(("{", "[")):
        return
    for part in extra.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip().isidentifier():
            yield key.strip(), value.strip()


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _number(value: Any) -> float | None:
    """ValueError for what is no time: text, below zero, not finite."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{number} is no time")
    return number


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
