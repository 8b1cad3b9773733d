"""Fills the tables of pages from the records they show, so that nobody copies a number by hand.

    python -m experiments.tables             # writes them: README.md, docs/ and experiments/
    python -m experiments.tables --check     # only says which are out of date, and fails

A page says which rows and columns it shows; the records say the numbers. A table is one with a line before it that names the experiments
with its records, and the seed if it is to be a single one:

    <!-- records: colld, seed 3 -->
    | Part | ks-arabic | English <!-- asr-multilingual:languages.en.cer --> |
    |---|---:|---:|
    | live cutting <!-- sotto-10-live --> | | |

A row is a model (the name in its records, without `-seed3`), a column an entry of a task file, of which the first measure is shown, or
`n`, the number of seeds (`n:ENTRY`: of those that this entry was measured on). A comment says it where the words for people are others;
behind a colon comes another measure, or a place in the record's details. Cells are means over the records; where those say that their
models were trained on different data, the table is refused.

Behind `<!-- values: dphubert_controls -->` a row is a record that is no evaluation (its name, without `-seed3`), a column a place in it;
of a list, such as one value for each layer, the greatest is shown.

Behind `<!-- gains: colld -->` a row is a comparison over seeds, and cells say by how much the first model is better than the second, and
the interval, or behind `:p` the corrected p-value (`experiments.comparisons`). Behind `<!-- paired: colld -->` a row is a pair of models,
`<!-- FIRST SECOND -->`, on the same recordings (`sottovoce compare`).
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sottovoce.core import ledger

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/**/*.md", "experiments/**/*.md", "benchmarks/*.md", "checks/*.md")
RECORDS = re.compile(r"<!-- records: (?P<names>[^,]+?)(?:, seed (?P<seed>\d+))? -->")
VALUES = re.compile(r"<!-- values: (?P<name>\S+) -->")
GAINS = re.compile(r"<!-- gains: (?P<name>\S+) -->")
PAIRED = re.compile(r"<!-- paired: (?P<name>\S+) -->")
NOTE = re.compile(r"<!-- (.+?) -->")
NOTHING = "–"

Cell = tuple[float, ...] | str  # a value, or with its interval; or text


def is_of(row: str, name: str, seed: int | None = None) -> bool:
    """Whether a record's name is that of the row, with `seed` behind it (``None``: any) or without one."""
    return re.fullmatch(rf"{re.escape(row)}(-seed{seed or '[0-9]+'})?", name) is not None


class Source(Protocol):
    """Where the numbers of a table are."""

    def cell(self, row: str, column: str) -> Cell:
        """ValueError when nothing is known of the row."""


@dataclass(frozen=True)
class Records:
    """Of evaluations. experiments: where they are from, for messages. seed: the only one that counts; None for all."""

    experiments: str
    evaluations: Sequence[Mapping[str, Any]]
    seed: int | None

    def cell(self, row: str, column: str) -> Cell:
        of_row = [each for each in self.evaluations if is_of(row, each["model"]["name"], self.seed)]
        if not of_row:
            raise ValueError(f"no records of '{row}' in {self.experiments}")
        if len(data := trained_on(of_row)) > 1:
            places = " and on ".join(sorted(data))
            raise ValueError(f"'{row}' in {self.experiments} was trained on {places}; a row is a mean over seeds alone")
        entry, _, place = column.partition(":")
        if entry == "n":
            counted = {each["model"]["name"] for each in of_row if place in ("", each["task"]["entry"])}
            return str(len(counted - {row}) or NOTHING)
        values = [value(each, place) for each in of_row if each["task"]["entry"] == entry]
        return (statistics.fmean(values),) if values else NOTHING


@dataclass(frozen=True)
class Values:
    """Of records of other kinds, at places in them."""

    experiment: str
    records: Sequence[Mapping[str, Any]]

    def cell(self, row: str, column: str) -> Cell:
        of_row = [each for each in self.records if is_of(row, each.get("name", ""))]
        if not of_row:
            raise ValueError(f"no record '{row}' in {self.experiment}")
        return (statistics.fmean(_at(each, column) for each in of_row),)


def trained_on(evaluations: Iterable[Mapping[str, Any]]) -> set[str]:
    """The data of their models' training, of those whose records say it."""
    origins = [each["model"].get("origin") or {} for each in evaluations]
    return {f"{origin['data']} ({origin['hours']} h)" for origin in origins if origin.get("data")}


def _at(record: Mapping[str, Any], place: str) -> float:
    found: Any = record
    for key in place.split("."):
        found = found[key]
    return float(max(found) if isinstance(found, list) else found)


@dataclass(frozen=True)
class Gains:
    """Of comparisons between models. reading: the record that `experiments.comparisons` added to the experiment's."""

    experiment: str
    reading: Mapping[str, Any]

    def cell(self, row: str, column: str) -> Cell:
        if row not in self.reading["gains"]:
            raise ValueError(f"no comparison '{row}' in {self.experiment}")
        if column == "n":
            return str(max(count for _, count in self.reading["wins"][row].values()))
        task, _, of = column.partition(":")
        if task not in self.reading["gains"][row] or of not in ("", "p"):
            return NOTHING
        if of == "p":
            if "p" not in self.reading:
                raise ValueError(
                    f"no p-values in {self.experiment} yet; run: python -m experiments.comparisons {self.experiment}"
                )
            p = self.reading["p"][row][task]
            return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        return (self.reading["gains"][row][task], *(self.reading["intervals"][row][task] or ()))


@dataclass(frozen=True)
class Paired:
    """Of comparisons of two models on the same recordings."""

    experiment: str
    records: Sequence[Mapping[str, Any]]

    def cell(self, row: str, column: str) -> Cell:
        of_row = [each for each in self.records if all(map(is_of, row.split(), (model["name"] for model in each["models"])))]
        if not of_row:
            raise ValueError(f"no comparison of '{row}' in {self.experiment}")
        entry, _, measure = column.partition(":")
        found = [each["tasks"][entry]["measures"] for each in of_row if entry in each["tasks"]]
        if not found:
            return NOTHING
        better = found[-1][measure or next(iter(found[-1]))]["better"]
        return better["value"], better["low"], better["high"]


def records_of(experiment: str, root: Path) -> list[dict[str, Any]]:
    """The newest of every model, task entry and seeds, and all that are no evaluations. ValueError when there are none."""
    path = root / "experiments" / experiment / ledger.RECORDS
    if not path.exists():
        raise ValueError(f"there is no {path}")
    newest = {}
    for number, record in enumerate(ledger.read_all(path)):
        evaluation = record.get("kind") == "evaluation"
        key = (record["model"]["name"], record["task"]["entry"], str(record["seeds"])) if evaluation else number
        newest[key] = record
    return list(newest.values())


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
            records = [each for name in mark["names"].split() for each in records_of(name, root)]
            evaluations = [each for each in records if each.get("kind") == "evaluation"]
            yield from table(page, Records(mark["names"], evaluations, int(mark["seed"]) if mark["seed"] else None))
        elif mark := VALUES.fullmatch(line):
            yield from table(page, Values(mark["name"], records_of(mark["name"], root)))
        elif mark := PAIRED.fullmatch(line):
            pairs = [each for each in records_of(mark["name"], root) if each.get("kind") == "paired"]
            yield from table(page, Paired(mark["name"], pairs), sign="+")
        elif mark := GAINS.fullmatch(line):
            name = mark["name"]
            readings = [each for each in records_of(name, root) if each.get("kind") == f"{name}-reading"]
            if not readings:
                raise ValueError(f"{name} has no comparisons yet; run: python -m experiments.comparisons {name}")
            yield from table(page, Gains(name, readings[-1]), sign="+")


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
    """Three decimals if no value is above 1, none if all are counts, else one."""
    numbers = [number for each in column if not isinstance(each, str) for number in each]
    counts = len(numbers) > 1 and all(float(number).is_integer() for number in numbers)
    places = 0 if counts else 3 if max((abs(each[0]) for each in column if not isinstance(each, str)), default=0) <= 1 else 1

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
            right = filled(text, root)
        except ValueError as problem:
            raise ValueError(f"{page}: {problem}") from None
        if right != text:
            yield page, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with the pages and the experiments")
    options = parser.parse_args()
    pages = sorted({page for pattern in PAGES for page in options.root.glob(pattern)})
    try:
        found = list(out_of_date(pages, options.root))
    except (ValueError, OSError) as problem:
        parser.error(str(problem))
    for page, right in found:
        if not options.check:
            page.write_text(right, encoding="utf-8")
        print(f"{page}: {'out of date' if options.check else 'written'}")
    sys.exit(bool(found) and options.check)


if __name__ == "__main__":
    main()
