"""Quality against cost, and the models that no other beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sottovoce.reporting import text
from sottovoce.reporting.board import COSTS, Board, Cell, Row, frontier
from sottovoce.reporting.figure import Chart, Table, label, layout
from sottovoce.reporting.style import ARROW, MEANS, SERIES, axis_title, colours, hover, methods, places, whiskers

SYMBOLS = ("circle", "triangle-up", "pentagon", "hexagon", "star", "triangle-down")
SIGNS = {"teacher": "diamond", "student": "dot", "control": "cross"}


def pareto(board: Board) -> Chart | None:
    """Draws value against cost, for every view and both costs. ``None`` for fewer than three different costs."""
    costs = [key for key, (_, _, of) in COSTS.items() if len({of(row) for row in board.rows if of(row) is not None}) >= 3]
    if not costs:
        return None
    figures = {f"{cost} {view}": _pareto(board, cost, view) for view, _ in views(board) for cost in costs}
    if not figures:
        return None
    first = next(iter(figures))
    return Chart(
        "pareto",
        "What is kept for what it costs",
        figures[first],
        _scores(board),
        note="The dotted line joins the models that no other beats: none is as good for less, none is better for as much. "
        "Thin lines join the sizes of one method. Costs within 1 % count as equal; controls are not on the line.",
        height=420,
        says="Scatter plot of quality against cost; the numbers are in the table below it.",
        choices=figures,
        legend=[(name, colour, SIGNS[role]) for name, role, colour in _legend(board)],
    )


def views(board: Board) -> list[tuple[str, str]]:
    """(key, title) of what the plot can show upwards: the means, and each task with a value of three models or more."""
    means = list(MEANS.items()) if board.common else []
    enough = [task for task in board.tasks if sum(task.key in row.cells for row in board.rows) >= 3]
    return means + [(task.key, f"{task.label}: {text.measure(task.measure)}") for task in enough]


def _legend(board: Board) -> list[tuple[str, str, str]]:
    """(name, role, colour) of each series."""
    colour, made = colours(board), {}
    for role in ("teacher", "student", "control"):
        for row in board.rows:
            if row.role == role:
                made[_series(row)] = (_series(row), role, colour[row.name])
    return list(made.values())


def _pareto(board: Board, cost: str, view: str) -> dict[str, Any]:
    title, unit, of = COSTS[cost]
    task = next((task for task in board.tasks if task.key == view), None)
    sign = task.sign if task else -1 if view == "rank" else 1
    digits = places(board, task) if task else 1

    def value(row: Row) -> Cell | None:
        if task is not None:
            return row.cells.get(task.key)
        mean = row.rank if view == "rank" else row.score
        return None if mean is None else Cell(mean, None, None)

    points = [(row, of(row), value(row)) for row in board.rows]
    shown = [(row, x, cell) for row, x, cell in points if x is not None and cell is not None]
    line = frontier(((x, cell.value) for row, x, cell in shown if row.role != "control"), sign)
    edge = {(x, cell.value) for row, x, cell in shown if row.role != "control" and (x, cell.value) in line}
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [x for x, _ in line],
            "y": [y for _, y in line],
            "line": {"color": "var(--muted)", "width": 1.5, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    colour = colours(board)
    xs = [x for _, x, _ in shown]
    judged = [
        x for row, x, _ in shown if row.role != "control"
    ] or xs  # a control that costs next to nothing must not set the scale
    wide = min(xs, default=0.0) > 0 and max(judged) / min(judged) > 20
    series = methods(board)
    for name, group in groupby(
        sorted(shown, key=lambda point: (*_order(point[0], series), point[1])), key=lambda point: _series(point[0])
    ):
        members = list(group)
        row = members[0][0]
        symbol = {"teacher": "diamond", "control": "x"}.get(row.role) or SYMBOLS[
            series.index(row.method) // SERIES % len(SYMBOLS)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text" if row.role == "student" else "markers+text",
                "line": {"color": colour[row.name], "width": 1},
                "name": label(text.short(name, 34)),
                "x": [x for _, x, _ in members],
                "y": [cell.value for _, _, cell in members],
                "error_y": whiskers([cell for _, _, cell in members]) if task else {"visible": False},
                "text": [label(text.short(r.name)) if (x, cell.value) in edge else "" for r, x, cell in members],
                "textposition": [_beside(x, xs) for _, x, _ in members],  # where the line does not pass
                "textfont": {"size": 11, "color": "var(--muted)"},
                "cliponaxis": False,
                "marker": {
                    "color": colour[row.name],
                    "size": 12 if row.role == "teacher" else 9 if row.role == "control" else 11,
                    "symbol": symbol,
                    "line": {"width": 1, "color": "var(--page)"},
                },
                "hovertext": [hover(r, cell, task, view, digits) for r, _, cell in members],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    top = max(xs, default=1.0) or 1.0
    axis: dict[str, Any] = {"title": {"text": title + (f" ({unit})" if unit else "")}, "automargin": True}
    axis |= {"type": "log", **_ticks_log(xs)} if wide else {"range": [-0.025 * top, 1.1 * top], **_ticks(xs)}
    heading = (
        axis_title(task) if task else f"{MEANS[view]} ({'1 is best' if view == 'rank' else '0 worst, 100 best on this page'})"
    )
    ends = _range([cell for _, _, cell in shown], sign)
    plan = layout(xaxis=axis, yaxis={"title": {"text": label(heading)}, "range": ends, "automargin": True})
    plan["margin"] |= {"t": 16, "r": 24}
    return {"data": traces, "layout": plan}


def _range(cells: Sequence[Cell], sign: int) -> list[float]:
    """Of the axis: better is up, with room for the names above the points."""
    ends = [sign * end for cell in cells for end in (cell.value, cell.low, cell.high) if end is not None] or [0.0, 1.0]
    room = max(ends) - min(ends) or abs(max(ends)) or 1.0
    return [sign * (min(ends) - 0.07 * room), sign * (max(ends) + 0.12 * room)]


def _beside(x: float, xs: Sequence[float]) -> str:
    """Above a line that goes up; below it at the end where the name would leave the plot."""
    return "bottom right" if x < 0.25 * max(xs) else "top left"


def _order(row: Row, series: Sequence[str]) -> tuple[int, int]:
    return {"teacher": 0, "student": 1, "control": 2}[row.role], series.index(row.method) if row.role == "student" else 0


def _series(row: Row) -> str:
    return (row.method or "student") if row.role == "student" else row.role


def _scores(board: Board) -> Table:
    head = ["Model", "Role", "Parameters", "Compute", *(MEANS.values() if board.common else ())]
    head += [f"{task.label} {ARROW[task.better]}" for task in board.tasks]
    rows = []
    for row in board.rows:
        cells = [row.name, row.role, text.amount(row.params), text.amount(row.macs, "MAC/s")]
        if board.common:
            cells += [text.number(row.rank, 1), text.number(row.score, 1)]
        for task in board.tasks:
            cell = row.cells.get(task.key)
            cells.append(text.NONE if cell is None else text.number(cell.value, places(board, task)))
        rows.append(cells)
    return Table(head, rows, left=2)


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """Round tick marks from 0, with prefixes."""
    top = 1.1 * max(values, default=1.0) or 1.0
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (step * factor) <= 6)
    marks = [i * step for i in range(int(top / step) + 1)]
    return {"tickvals": marks, "ticktext": [text.mark(mark) for mark in marks]}


def _ticks_log(values: Sequence[float]) -> dict[str, Any]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = [factor * 10.0**power for power in range(low, high + 1) for factor in ((1, 2, 5) if high - low < 4 else (1,))]
    return {"tickvals": marks, "ticktext": [text.mark(mark) for mark in marks]}
