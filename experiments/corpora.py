"""Manifests of the corpora that experiments are made on: rows of a split, with absolute paths."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def rows(speech: Path, corpus: str, split: str = "train") -> list[dict[str, str]]:
    """The rows of a corpus in the folder `speech`."""
    with open(speech / corpus / "manifest.tsv", encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == split]
    return [{**row, "path": str((speech / row["path"]).resolve())} for row in found]


def write(path: Path, found: Sequence[Mapping[str, str]], columns: Sequence[str] = ()) -> None:
    """A manifest of `found`, with these columns or all, and a line about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns or list(found[0]), delimiter="\t", extrasaction="ignore")
        table.writeheader()
        table.writerows(found)
    print(f"{path}: {len(found)} recordings, {sum(float(row['seconds']) for row in found) / 3600:.2f} hours")
