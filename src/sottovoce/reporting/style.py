"""How models and their values look in every chart and table: colours, decimals, intervals, what a point says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sottovoce.reporting import text
from sottovoce.reporting.board import Board, Cell, Row, TaskColumn
from sottovoce.reporting.figure import label

SERIES = 6  # colours for students in the style sheet
ARROW = {"higher": "↑", "lower": "↓"}
MEANS = {"rank": "Mean rank", "score": "Mean score"}


def colours(board: Board) -> dict[str, str]:
    """Colour of each row by name: the teacher's and the controls' are fixed, students have one for each method."""
    series = methods(board)
    made = {}
    for row in board.rows:
        made[row.name] = f"var(--s{series.index(row.method) % SERIES + 1})" if row.role == "student" else f"var(--{row.role})"
    return made


def methods(board: Board) -> list[str]:
    """Of the students, in the order of the board."""
    return list(dict.fromkeys(row.method for row in board.rows if row.role == "student"))


def interval(cell: Cell, places: int) -> str:
    """'89.9–92.4', or nothing."""
    if cell.low is None or cell.high is None:
        return ""
    between = " to " if cell.low < 0 or cell.high < 0 else "–"
    return f"{text.number(cell.low, places)}{between}{text.number(cell.high, places)}"


def places(board: Board, task: TaskColumn) -> int:
    """Decimals of a task's values."""
    return text.decimals((row.cells[task.key].value for row in board.rows if task.key in row.cells), task.unit)


def axis_title(task: TaskColumn) -> str:
    return f"{text.measure(task.measure, task.unit)} ({task.better} is better)"


def whiskers(cells: Sequence[Cell]) -> dict[str, Any]:
    """Error bars from low to high."""
    made: dict[str, Any] = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": "var(--whisker)"}
    made["array"] = [0.0 if cell.high is None else max(0.0, cell.high - cell.value) for cell in cells]
    made["arrayminus"] = [0.0 if cell.low is None else max(0.0, cell.value - cell.low) for cell in cells]
    return made


def hover(row: Row, cell: Cell, task: TaskColumn | None, view: str, digits: int) -> str:
    what = (
        f"{text.measure(task.measure)} {text.number(cell.value, digits)} {task.unit}"
        if task
        else f"{MEANS[view]} {cell.value:.1f}"
    )
    between = interval(cell, digits)
    lines = [f"<b>{label(row.name)}</b>", label(f"{what}{f' ({between})' if between else ''}")]
    lines.append(f"{text.amount(row.params)} parameters, {text.amount(row.macs, 'MAC/s')}")
    if row.n > 1:
        lines.append(f"mean of n = {row.n} models; range in brackets")
    return "<br>".join(lines)
