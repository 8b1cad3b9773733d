"""Reads manifests: tables with a ``path`` column, fairseq's tsv, JSON lines, lists of paths.

Nothing is dropped silently. A row that cannot be used is skipped with a reason; columns that are ignored are named in a note.
"""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sottovoce.data import columns
from sottovoce.data.decode import BadAudio, header_rate
from sottovoce.data.files import NOT_TEXT, TOO_LONG, is_text, printable, read_lines, rows
from sottovoce.data.json_lines import MALFORMED, Row, UnusableRow, json_rows
from sottovoce.data.lhotse_sets import is_cut, read_cuts
from sottovoce.data.recording import Recording, Recordings, count_reasons

__all__ = ["RTTM", "read_json_lines", "read_lines", "read_list", "read_table"]

EXTRA, RTTM = "extra", "rttm"
QUOTES = "quotes that do not match"
MOST_LINES = 100  # most lines of a csv row with line breaks in quotes


class Base:
    """Resolves relative paths. The base is the manifest's folder, ``clips`` in it or its parent: the first that has a file of `names`."""

    def __init__(self, manifest: Path, names: Iterable[str]) -> None:
        self.home = self.folder = home = manifest.absolute().parent
        sample = [name for name in names if name and "\0" not in name and not os.path.isabs(name)]
        for folder in (home, home / "clips", home.parent):
            if any(os.path.exists(folder / name) for name in sample):
                self.folder = folder
                break

    def __call__(self, name: str) -> str:
        return name if os.path.isabs(name) else os.path.join(self.folder, name)

    def beside(self, name: str) -> str:
        """Path of a label file: relative to the audio's folder, else to the manifest's."""
        path = self(name)
        return path if os.path.exists(path) or not os.path.exists(self.home / name) else os.path.join(self.home, name)


def read_table(path: Path) -> Recordings:
    """Recordings of a csv or tsv with a header, or of a fairseq tsv. ValueError when it is empty or has no ``path`` column."""
    lines = ((number, line) for number, line in rows(path) if line is None or line.strip())
    head = list(islice(lines, 2))
    if not head:
        raise ValueError(f"{path} is empty; it must have a header with a 'path' column and one row for each recording")
    if _is_fairseq([line for _, line in head]):
        return _read_fairseq(path, chain(head, lines))
    top = head[0][1] or ""
    kinds = ",;\t" if path.name.lower().endswith(".csv") else "\t,;"
    cells = split_rows(chain(head, lines), max(kinds, key=top.count))
    names = [name.strip().strip('"').lower() for name in next(cells)[1] or []]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has several columns named '{twice[0]}'; name each once")
    if not columns.layout(tuple(names)).path:
        shown = printable(", ".join(names)[:200])
        raise ValueError(
            f"{path} has no 'path' column; its first line reads: {shown}. Add a header whose audio column is named 'path'"
        )
    return _from_rows(path, ((number, _by_name(names, row)) for number, row in cells))


def _by_name(names: list[str], cells: list[str] | str) -> Mapping[str, str] | str:
    if isinstance(cells, str):
        return cells
    if any(cell.strip() for cell in cells[len(names) :]) or len(cells) < len(names):
        return f"{MALFORMED}: not as many cells as the header"
    return {name: cell for name, cell in zip(names, cells, strict=False) if name}


def split_rows(lines: Iterable[tuple[int, str | None]], separator: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line number, cells) of every row that is not blank; a reason in place of the cells when they cannot be separated.

    A tsv has no quoting, except cells with doubled quotes, as pandas writes them. A quoted cell of a csv may hold line breaks. A quote that
    is never closed makes only its own line unusable.
    """
    source = iter(lines)
    ahead: deque[tuple[int, str | None]] = deque()  # lines read in search of a closing quote
    while (item := ahead.popleft() if ahead else next(source, None)) is not None:
        number, line = item
        if line is None:
            yield number, TOO_LONG
        elif not line.strip(separator + " \t"):
            continue
        elif separator == "\t":
            yield number, [_unquoted(cell) for cell in line.split("\t")]
        elif '"' not in line:
            yield number, line.split(separator)
        else:
            cells = _quoted(line, separator)
            taken = 0
            while cells is None and taken < MOST_LINES:
                if taken == len(ahead):
                    if (following := next(source, None)) is None:
                        break
                    ahead.append(following)
                if (text := ahead[taken][1]) is None:
                    break
                line, taken = f"{line}\n{text}", taken + 1
                cells = _quoted(line, separator)
            if isinstance(cells, list):
                for _ in range(taken):
                    ahead.popleft()
            yield number, f"{MALFORMED}: {QUOTES}" if cells is None else cells


def _quoted(text: str, separator: str) -> list[str] | str | None:
    """The cells of a csv row, a reason why it is malformed, or None when a quote is still open."""
    if text.count('"') % 2:
        return None
    try:
        parsed = list(csv.reader((line + "\n" for line in text.split("\n")), delimiter=separator, strict=True))
    except csv.Error as problem:
        return None if "unexpected end" in str(problem) else f"{MALFORMED}: {QUOTES}"
    return [cell.removesuffix("\n") for cell in parsed[0]] if len(parsed) == 1 else None


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    written = len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if written else cell


def _is_fairseq(lines: list[str | None]) -> bool:
    if len(lines) < 2 or lines[0] is None or lines[1] is None or "\t" in lines[0] or "," in lines[0]:
        return False
    cells = lines[1].split("\t")
    return len(cells) == 2 and cells[1].strip().isdigit()


def _read_fairseq(path: Path, lines: Iterator[tuple[int, str | None]]) -> Recordings:
    """Recordings of a fairseq tsv. Its sample counts are not used: the file headers give the lengths."""
    root = Path((next(lines)[1] or "").strip())
    if not root.is_absolute():
        root = path.absolute().parent / root
    if not root.is_dir():
        raise ValueError(f"the first line of {path} names the folder {printable(str(root))}, which does not exist; correct it")
    recordings = Recordings()
    for number, line in lines:
        name, _, frames = (line or "").partition("\t")
        if not name or "\0" in name or not frames.strip().isdigit():
            recordings.skipped.append({"path": f"{path}:{number}", "reason": TOO_LONG if line is None else MALFORMED})
        else:
            recordings.append(Recording(printable(name), os.path.join(root, name)))
    return recordings


def read_json_lines(path: Path, allow_commands: bool = False) -> Recordings:
    """Recordings of NeMo's JSON lines or of Lhotse cuts. allow_commands: see `read_cuts`. ValueError when there is no usable row."""
    numbered_rows = json_rows(path)
    head = list(islice(numbered_rows, 32))
    objects = [row for _, row in head if not isinstance(row, str)]
    if objects and is_cut(objects[0]):
        return read_cuts(path, allow_commands)
    if not objects:
        reasons = f" ({', '.join(dict.fromkeys(str(row) for _, row in head))})" if head else ""
        raise ValueError(
            f"{path} holds no JSON objects, one for each line{reasons}; each must look like "
            '{"audio_filepath": ..., "duration": ...}'
        )
    if not any(columns.layout(tuple(row)).path for row in objects):
        keys = printable(", ".join(sorted(objects[0])[:12]))
        raise ValueError(
            f"the rows of {path} have neither 'audio_filepath' nor 'path' and are not Lhotse cuts; they have: {keys}"
        )
    return _from_rows(path, chain(head, numbered_rows))


def read_list(path: Path) -> Recordings:
    """Recordings of a text file with one path per line."""
    return _from_rows(
        path,
        ((number, TOO_LONG if line is None else {"path": line}) for number, line in rows(path) if line is None or line.strip()),
    )


def _from_rows(path: Path, numbered_rows: Iterator[Row]) -> Recordings:
    head = list(islice(numbered_rows, 32))
    base = Base(path, (str(row.get(columns.layout(tuple(row)).path) or "") for _, row in head if not isinstance(row, str)))
    recordings = Recordings()
    unused: set[str] = set()
    nan_counts: dict[str, int] = {}
    rates: dict[str, int] = {}
    for number, row in chain(head, numbered_rows):
        try:
            if isinstance(row, str):
                raise UnusableRow(row)
            item = _recording(row, base, rates)
        except UnusableRow as problem:
            recordings.skipped.append({"path": f"{path}:{number}", "reason": str(problem)})
            continue
        recordings.append(item)
        unused.update(columns.layout(tuple(row)).unused)
        for key, value in item.fields.items():
            if value in ("nan", "NaN"):
                nan_counts[key] = nan_counts.get(key, 0) + 1
    if unused:
        recordings.note(
            path, f"not used as times: {', '.join(sorted(unused))}; name a column start, end or duration, with _ms or _samples"
        )
    for key, count in nan_counts.items():
        recordings.note(
            path,
            f"{count} cells of the column '{key}' read 'nan', which is taken as a word; leave cells without a value empty",
        )
    if not recordings:
        problems = count_reasons(recordings.skipped) or "none after the header"
        raise ValueError(f"{path} has no usable rows ({problems}); each row must name an audio file")
    return recordings


def _recording(row: Mapping[str, Any], base: Base, rates: dict[str, int]) -> Recording:
    layout = columns.layout(tuple(row))
    name = row.get(layout.path)
    if isinstance(name, str):
        name = _as_named(name, base)
    if not isinstance(name, str) or not name.strip():
        raise UnusableRow(f"{MALFORMED}: no path")
    if why := foreign(name):
        raise UnusableRow(why)
    path = base(name)
    try:
        if not is_text(name) and not os.path.exists(path):  # neither a file with such a name nor UTF-8
            raise UnusableRow(NOT_TEXT)
        rate = _rate(path, rates) if columns.samples(layout, row) else 0
        stretch = columns.stretch(layout, row, rate)
        channel = columns.channel(row.get(columns.CHANNEL))
    except UnusableRow:
        raise
    except ValueError as problem:
        raise UnusableRow(f"{MALFORMED}: {problem}") from None
    fields = {
        key: text
        for key, value in row.items()
        if key not in layout.known and not _blank(value) and (text := _text(value)).strip()
    }
    if not all(is_text(text) and is_text(key) for key, text in fields.items()):
        raise UnusableRow(NOT_TEXT)
    for key, value in _pairs(fields.get(EXTRA, "")):
        fields[key] = fields.get(key) or value
    if fields.get(RTTM):
        fields[RTTM] = base.beside(fields[RTTM])
    shown = printable(name)
    return Recording(
        id=f"{shown}#{stretch.start:g}" if stretch.start else shown,
        path=path,
        start=stretch.start,
        duration=stretch.duration,
        channel=channel,
        fields=fields,
        group=shown,
    )


def _as_named(name: str, base: Base) -> str:
    """The name, stripped of surrounding spaces unless a file with the spaces exists."""
    bare = name.strip()
    return bare if bare != name and "\0" not in name and not os.path.exists(base(name)) else name


def foreign(name: str) -> str:
    """Reason why a name is not a path on a disk (a command or an address); empty for a path."""
    if "\0" in name:
        return f"{MALFORMED}: no path"
    if name.rstrip().endswith("|"):
        return "a command, which is not run"
    if "://" in name and not os.path.exists(name):
        return "an address, which is not fetched"
    return ""


def _rate(path: str, rates: dict[str, int]) -> int:
    if path not in rates:
        try:
            rates[path] = header_rate(path)
        except BadAudio as problem:
            raise UnusableRow(problem.reason) from None
    return rates[path]


def _pairs(extra: str) -> Iterator[tuple[str, str]]:
    """Yield (key, value) from ``key=value; key=value``; nothing from JSON or plain text."""
    if extra.lstrip().startswith(("{", "[")):
        return
    for part in extra.split(";"):
        key, equals, value = part.partition("=")
        if equals and key.strip().isidentifier():
            yield key.strip(), value.strip()


def _blank(value: Any) -> bool:
    return value is None or value == "" or value != value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
