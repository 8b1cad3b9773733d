"""Reads the rows of a manifest in JSON lines; a row that cannot be used becomes a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sottovoce.data.files import TOO_LONG, rows

MALFORMED = "malformed manifest row"
DEEPEST = 64  # most levels of lists and objects in a row

Row = tuple[int, Mapping[str, Any] | str]  # line number; the row, or the reason why it cannot be used


class UnusableRow(ValueError):
    """A row that cannot be used. Its text is a short reason, the same for the same kind of fault."""


def json_rows(path: Path) -> Iterator[Row]:
    """Yield (line number, JSON object or reason) for every line that is not blank. A bare NaN, as pandas writes it, becomes None."""
    for number, line in rows(path):
        if line is None:
            yield number, TOO_LONG
        elif line.strip():
            try:
                row = json.loads(line, parse_constant=lambda name: None if name == "NaN" else float(name))
            except RecursionError:
                row = f"{MALFORMED}: nested more than {DEEPEST} deep"
            except ValueError:
                row = f"{MALFORMED}: not JSON"
            if isinstance(row, dict) and line.count("[") + line.count("{") > DEEPEST and _depth(row) > DEEPEST:
                row = f"{MALFORMED}: nested more than {DEEPEST} deep"
            yield number, row if isinstance(row, (dict, str)) else f"{MALFORMED}: not a JSON object"


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        depth += 1
    return depth
