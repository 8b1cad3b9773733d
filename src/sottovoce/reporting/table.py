"""The leaderboard as text: Markdown for papers and pull requests, CSV for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping

from sottovoce.reporting import style, text
from sottovoce.reporting.board import Board, Cell, Row, TaskColumn


def markdown(board: Board) -> str:
    """A row for each model, a column for each task: value (interval, or lowest and highest of n seeds), the best student in bold."""
    best = {task.key: board.best(task) for task in board.tasks}
    heads = ["model", "n", "parameters", "MAC/s"]
    heads += [
        f"{task.label}: {text.measure(task.measure, task.unit)} {style.ARROW.get(task.better, '')}".strip()
        for task in board.tasks
    ]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in board.rows:
        cells = [_value(board, task, row.cells.get(task.key), row.name in best[task.key]) for task in board.tasks]
        lines.append([row.name, str(row.n), text.amount(row.params), text.amount(row.macs), *cells])
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def comma_separated(board: Board) -> str:
    """A line for each model and task, numbers in full. low, high: the interval, or the lowest and highest of n seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("model", "role", "recipe", "n", "params", "macs_per_s", "task", "measure", "unit", "better", "value", "low", "high")
    )
    for row in board.rows:
        for task in board.tasks:
            if task.key in row.cells:
                writer.writerow(_line(row, task, row.cells[task.key]))
    return out.getvalue()


def _line(row: Row, task: TaskColumn, cell: Cell) -> tuple[object, ...]:
    recipe = row.recipe.replace(text.SPACE, " ")
    about = (task.label, task.measure, task.unit, task.better)
    return row.name, row.role, recipe, row.n, row.params, row.macs, *about, cell.value, cell.low, cell.high


def _value(board: Board, task: TaskColumn, cell: Cell | None, best: bool) -> str:
    if cell is None:
        return text.NONE
    digits = style.places(board, task)
    value, between = text.number(cell.value, digits), style.interval(cell, digits)
    return (f"**{value}**" if best else value) + (f" ({between})" if between else "")


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ").replace(text.SPACE, " ")


FORMATS: Mapping[str, Callable[[Board], str]] = {".md": markdown, ".csv": comma_separated}  # by the file's ending
