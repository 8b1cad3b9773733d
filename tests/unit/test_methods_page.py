"""docs/methods.md has a row for every shipped recipe, and names nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce import recipes
from sottovoce.core.registry import OBJECTIVES

PAGE = (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")
NO_METHODS = {  # the same in minutes, second iterations, and other data
    *("dphubert-demo", "colld-demo", "sotto-demo"),
    *("pretrain-tiny-second", "pretrain-mini-second", "pretrain-voices"),
}


def rows() -> list[list[str]]:
    """The cells of the first table, without its head."""
    lines = [line for line in PAGE.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def named(cell: str) -> set[str]:
    """The recipes of a cell. `-x` stands for every other name with this end."""
    names = re.findall(r"`([^`]+)`", cell)
    whole = [name for name in names if not name.startswith("-")]
    ends = [name for name in names if name.startswith("-")]
    return {*whole, *(found for name in whole for end in ends if (found := name + end) in recipes.recipes())}


def test_every_recipe_has_a_row_and_every_row_a_recipe() -> None:
    found = [named(row[1]) for row in rows()]
    assert set.union(*found) <= set(recipes.recipes())
    assert set(recipes.recipes()) - NO_METHODS == set.union(*found)
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))


def test_every_row_leads_to_a_section_and_to_objectives() -> None:
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^##+ (.+)$", PAGE, flags=re.MULTILINE)
    }
    for row in rows():
        anchors = re.findall(r"\(#([^)]+)\)", row[0])
        assert anchors or row[0] == "control"
        assert set(anchors) <= heads
        objectives = [name for name in re.findall(r"`([a-z_]+)`", row[3]) if name not in ("ensemble",)]
        assert set(objectives) <= set(OBJECTIVES.names()), row
