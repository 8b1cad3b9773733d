"""Fills the tables of docs/ from the records they show, so that nobody copies a number by hand.

    python benchmarks/doc_tables.py docs/*.md            # writes them
    python benchmarks/doc_tables.py docs/*.md --check    # only says which are out of date, and fails

A page says which rows and columns it shows; the records say the numbers. A table is one with a line before it that names the folders of
its records, and the seed if it is to be a single one:

    <!-- records: results/colld, seed 3 -->
    | Part | ks-arabic | English <!-- asr-multilingual:languages.en.cer --> |
    |---|---:|---:|
    | live cutting <!-- sotto-10-live --> | | |

A row is a model (the folder of its records, without `-seed3`), a column an entry of a task file, of which the first measure is shown, or
`n`, the number of seeds. A comment says it where the words for people are others; behind a colon comes another measure, or a place in the
record's details.
Cells are means over the seeds.

Behind `<!-- gains: results/colld-reading.json -->` a row is a comparison, and cells say by how much the first model is better than the
second, and the interval (`table_reading.py`).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
RECORDS = re.compile(r"<!-- records: (?P<folders>[^,]+?)(?:, seed (?P<seed>\d+))? -->")
GAINS = re.compile(r"<!-- gains: (?P<file>\S+) -->")
NOTE = re.compile(r"<!-- (.+?) -->")
NOTHING = "–"

Cell = tuple[float, ...] | str  # a value, or with its interval; or text


class Source(Protocol):
    """Where the numbers of a table are."""

    def cell(self, row: str, column: str) -> Cell:
        """ValueError when nothing is known of the row."""


@dataclass(frozen=True)
class Records:
    """Of evaluations. seed: the only one that counts; None for all."""

    folders: tuple[Path, ...]
    seed: int | None

    def models(self, name: str) -> list[Path]:
        """The folders of a model's records, one for each seed."""
        ending = rf"-seed{self.seed or '[0-9]+'}"
        found = (each for folder in self.folders for each in sorted(folder.iterdir()) if each.is_dir())
        return [each for each in found if re.fullmatch(rf"{re.escape(name)}({ending})?", each.name)]

    def cell(self, row: str, column: str) -> Cell:
        name = row.replace("untrained:", "untrained-")
        folders = self.models(name)
        if not folders:
            raise ValueError(f"no records of '{name}' in {', '.join(map(str, self.folders))}")
        if column == "n":
            return str(len({each.name for each in folders} - {name}) or NOTHING)
        entry, _, place = column.partition(":")
        files = (each / f"{entry}.json" for each in folders)
        values = [value(read(file), place) for file in files if file.exists()]
        return (statistics.fmean(values),) if values else NOTHING


@dataclass(frozen=True)
class Gains:
    """Of comparisons between models. reading: what `table_reading.py` wrote into `file`."""

    file: Path
    reading: Mapping[str, Any]

    def cell(self, row: str, column: str) -> Cell:
        if row not in self.reading["gains"]:
            raise ValueError(f"no comparison '{row}' in {self.file}")
        if column == "n":
            return str(max(count for _, count in self.reading["wins"][row].values()))
        if column not in self.reading["gains"][row]:
            return NOTHING
        return (self.reading["gains"][row][column], *(self.reading["intervals"][row][column] or ()))


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def value(record: Mapping[str, Any], place: str) -> float:
    """Of the measure, or at the place in the details; "" for the first measure."""
    measures = record["measures"]
    found: Any = measures[place or next(iter(measures))]["value"] if not place or place in measures else record["details"]
    for key in place.split(".") if isinstance(found, Mapping) else ():
        found = found[key]
    return float(found)


def filled(text: str, root: Path) -> str:
    """The page with its tables as the records below `root` say. ValueError names what there is no record of."""
    return "\n".join(lines(iter(text.split("\n")), root))


def lines(page: Iterator[str], root: Path) -> Iterator[str]:
    for line in page:
        yield line
        if mark := RECORDS.fullmatch(line):
            folders = tuple(found for each in mark["folders"].split() for found in sorted(root.glob(each)))
            yield from table(page, Records(folders, int(mark["seed"]) if mark["seed"] else None))
        elif mark := GAINS.fullmatch(line):
            file = root / mark["file"]
            yield from table(page, Gains(file, read(file)), sign="+")


def table(page: Iterator[str], source: Source, sign: str = "") -> Iterator[str]:
    header, rule = next(page, ""), next(page, "")
    if not (header.startswith("|") and rule.startswith("|-")):
        raise ValueError("no table where one was announced: the line after <!-- records: ... --> is its head")
    yield from (header, rule)
    labels, after = [], []
    for line in page:
        if not line.startswith("|"):
            after = [line]
            break
        labels.append(cells(line)[0])
    rows = [meant(label).replace("`", "") for label in labels]
    columns = [written([source.cell(row, meant(head)) for row in rows], sign) for head in cells(header)[1:]]
    for row in zip(labels, *columns, strict=True):
        yield "| " + " | ".join(row) + " |"
    yield from after


def written(column: list[Cell], sign: str) -> list[str]:
    """Three places where no value is above 1, else one."""
    places = 3 if max((abs(each[0]) for each in column if not isinstance(each, str)), default=0) <= 1 else 1

    def text(cell: Cell) -> str:
        if isinstance(cell, str):
            return cell
        value, *ends = (f"{number:{sign}.{places}f}" for number in cell)
        return f"{value} ({' to '.join(ends)})" if ends else value

    return [text(cell) for cell in column]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def meant(cell: str) -> str:
    """What the cell's comment says, or, without one, the cell."""
    note = NOTE.search(cell)
    return note[1] if note else cell


def out_of_date(pages: Iterable[Path], root: Path) -> Iterator[tuple[Path, str]]:
    """Pages whose tables are not what the records say, and what they would be."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        try:
            made = filled(text, root)
        except ValueError as problem:
            raise ValueError(f"{page}: {problem}") from None
        if made != text:
            yield page, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that the names of records start from")
    options = parser.parse_args()
    try:
        found = list(out_of_date(options.pages, options.root))
    except (ValueError, OSError) as problem:
        parser.error(str(problem))
    for page, made in found:
        if not options.check:
            page.write_text(made, encoding="utf-8")
        print(f"{page}: {'out of date' if options.check else 'written'}")
    sys.exit(bool(found) and options.check)


if __name__ == "__main__":
    main()
