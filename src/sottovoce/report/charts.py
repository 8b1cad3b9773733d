"""What is drawn of models beside each other: quality against cost, tasks, learning rates, layer weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sottovoce.report import words
from sottovoce.report.board import COSTS, Board, Cell, Row, Task, frontier
from sottovoce.report.figure import Chart, Table, label, layout

SERIES = 6  # colours for students in the style sheet
SYMBOLS = ("circle", "triangle-up", "pentagon", "hexagon", "star", "triangle-down")
ARROW = {"higher": "↑", "lower": "↓"}
SIGNS = {"teacher": "diamond", "student": "dot", "control": "cross"}
MEANS = {"rank": "Mean rank", "score": "Mean score"}


def colours(board: Board) -> dict[str, str]:
    """Colour of each row by name: the teacher's and the controls' are fixed, students have one for each recipe."""
    recipes = list(dict.fromkeys(row.recipe for row in board.rows if row.role == "student"))
    made = {}
    for row in board.rows:
        made[row.name] = f"var(--s{recipes.index(row.recipe) % SERIES + 1})" if row.role == "student" else f"var(--{row.role})"
    return made


def interval(cell: Cell, places: int) -> str:
    """'89.9–92.4', or nothing."""
    if cell.low is None or cell.high is None:
        return ""
    between = " to " if cell.low < 0 or cell.high < 0 else "–"
    return f"{words.number(cell.low, places)}{between}{words.number(cell.high, places)}"


def places(board: Board, task: Task) -> int:
    """Decimals of a task's values."""
    return words.decimals((row.cells[task.key].value for row in board.rows if task.key in row.cells), task.unit)


def axis_title(task: Task) -> str:
    return f"{words.measure(task.measure, task.unit)} ({task.better} is better)"


def pareto(board: Board) -> Chart | None:
    """Value against cost, for every task and the means, and both costs. ``None`` for fewer than three different costs."""
    costs = [key for key, (_, _, of) in COSTS.items() if len({of(row) for row in board.rows if of(row) is not None}) >= 3]
    if not costs:
        return None
    views = [*(MEANS if board.common else ()), *(task.key for task in board.tasks)]
    figures = {f"{cost} {view}": _pareto(board, cost, view) for view in views for cost in costs}
    first = next(iter(figures))
    return Chart(
        "pareto",
        "What is kept for what it costs",
        figures[first],
        _scores(board),
        note="The line joins the models that no other beats: none is as good for less, none is better for as much. "
        "Costs within 1 % count as equal; controls are not on the line.",
        height=420,
        says="Scatter plot of quality against cost; the numbers are in the table below it.",
        choices=figures,
        legend=[(name, colour, SIGNS[role]) for name, role, colour in _legend(board)],
    )


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
    recipes = list(dict.fromkeys(row.recipe for row in board.rows if row.role == "student"))
    for name, group in groupby(sorted(shown, key=lambda point: _order(point[0], recipes)), key=lambda point: _series(point[0])):
        members = list(group)
        row = members[0][0]
        symbol = {"teacher": "diamond", "control": "x"}.get(row.role) or SYMBOLS[
            recipes.index(row.recipe) // SERIES % len(SYMBOLS)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": label(words.short(name, 34)),
                "x": [x for _, x, _ in members],
                "y": [cell.value for _, _, cell in members],
                "error_y": _whiskers([cell for _, _, cell in members]) if task else {"visible": False},
                "text": [label(words.short(r.name)) if (x, cell.value) in edge else "" for r, x, cell in members],
                "textposition": [_beside(x, xs) for _, x, _ in members],  # where the line does not pass
                "textfont": {"size": 11, "color": "var(--muted)"},
                "cliponaxis": False,
                "marker": {
                    "color": colour[row.name],
                    "size": 12 if row.role == "teacher" else 9 if row.role == "control" else 11,
                    "symbol": symbol,
                    "line": {"width": 1, "color": "var(--page)"},
                },
                "hovertext": [_hover(r, cell, task, view, digits) for r, _, cell in members],
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


def _order(row: Row, recipes: Sequence[str]) -> tuple[int, int]:
    return {"teacher": 0, "student": 1, "control": 2}[row.role], recipes.index(row.recipe) if row.role == "student" else 0


def _series(row: Row) -> str:
    return (row.recipe or "student") if row.role == "student" else row.role


def _hover(row: Row, cell: Cell, task: Task | None, view: str, digits: int) -> str:
    what = (
        f"{words.measure(task.measure)} {words.number(cell.value, digits)} {task.unit}"
        if task
        else f"{MEANS[view]} {cell.value:.1f}"
    )
    between = interval(cell, digits)
    lines = [f"<b>{label(row.name)}</b>", label(f"{what}{f' ({between})' if between else ''}")]
    lines.append(f"{words.amount(row.params)} parameters, {words.amount(row.macs, 'MAC/s')}")
    if row.n > 1:
        lines.append(f"mean of n = {row.n} models; range in brackets")
    return "<br>".join(lines)


def _scores(board: Board) -> Table:
    head = ["Model", "Role", "Parameters", "Compute", *(MEANS.values() if board.common else ())]
    head += [f"{task.label} {ARROW[task.better]}" for task in board.tasks]
    rows = []
    for row in board.rows:
        cells = [row.name, row.role, words.amount(row.params), words.amount(row.macs, "MAC/s")]
        if board.common:
            cells += [words.number(row.rank, 1), words.number(row.score, 1)]
        for task in board.tasks:
            cell = row.cells.get(task.key)
            cells.append(words.NONE if cell is None else words.number(cell.value, places(board, task)))
        rows.append(cells)
    return Table(head, rows, left=2)


def bars(board: Board, task: Task) -> Chart:
    """All models on one task."""
    rows = [row for row in board.rows if task.key in row.cells]
    cells, digits = [row.cells[task.key] for row in rows], places(board, task)
    colour = colours(board)
    heights = list(range(len(rows)))
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [cell.value for cell in cells],
        "y": heights,
        "width": 0.62,
        "marker": {"color": [colour[row.name] for row in rows]},
        "error_x": _whiskers(cells),
        "hovertext": [_hover(row, cell, task, "", digits) for row, cell in zip(rows, cells, strict=True)],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    ends = [end for cell in cells for end in (cell.value, cell.low, cell.high) if end is not None]
    plan = layout(
        xaxis={
            "range": [1.06 * min(0.0, *ends), 1.02 * max(0.0, *ends) or 1.0],
            "nticks": 5,
            "zeroline": True,
            "zerolinecolor": "var(--line)",
        },
        yaxis={
            "tickvals": heights,
            "ticktext": [label(words.short(row.name)) for row in rows],
            "range": [len(rows) - 0.45, -0.55],
            "showgrid": False,
            "automargin": True,
            "ticks": "",
        },
    )
    plan["margin"] = {"l": 8, "r": 52, "t": 6, "b": 28}
    plan["annotations"] = [
        {
            "x": 1,
            "xref": "paper",
            "xanchor": "right",
            "xshift": 46,
            "y": y,
            "text": words.number(cell.value, digits),
            "showarrow": False,
            "font": {"size": 12, "color": "var(--ink)"},
        }
        for y, cell in zip(heights, cells, strict=True)
    ]
    teacher = next((cell.value for row, cell in zip(rows, cells, strict=True) if row.role == "teacher"), None)
    if teacher is not None:
        plan["shapes"] = [
            {
                "type": "line",
                "x0": teacher,
                "x1": teacher,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "layer": "below",
                "line": {"color": "var(--teacher)", "width": 1, "dash": "dot"},
            }
        ]
    return Chart(
        f"bars-{task.key}",
        f"{task.title}: {task.label}" if task.title != task.label else task.title,
        {"data": [trace], "layout": plan},
        _measures(rows, task),
        note=axis_title(task),
        height=46 + 30 * len(rows),
        says=f"Bar chart of {task.measure} on {task.label} for {len(rows)} models; the numbers are in the table below it.",
    )


def _measures(rows: Sequence[Row], task: Task) -> Table:
    """Every measure of the task, with intervals; of several seeds the mean and the range."""
    names = list(dict.fromkeys(name for row in rows for one in row.evaluations[task.key] for name in one.record["measures"]))
    head, table = ["Model", "n"], []
    for name in names:
        head += [words.measure(name), "interval or range"]
    spread: dict[str, list[Cell | None]] = {name: [] for name in names}
    units: dict[str, str] = {}
    for name in names:
        for row in rows:
            found = [one.record["measures"][name] for one in row.evaluations[task.key] if name in one.record["measures"]]
            units[name] = found[0]["unit"] if found else units.get(name, "")
            values = [measure["value"] for measure in found]
            if len(found) == 1:
                spread[name].append(Cell(values[0], found[0].get("low"), found[0].get("high")))
            else:
                spread[name].append(Cell(sum(values) / len(values), min(values), max(values), len(values)) if found else None)
    for i, row in enumerate(rows):
        cells = [row.name, str(row.cells[task.key].n)]
        for name in names:
            cell = spread[name][i]
            digits = words.decimals((each.value for each in spread[name] if each is not None), units[name])
            cells += [words.NONE, ""] if cell is None else [words.number(cell.value, digits), interval(cell, digits)]
        table.append(cells)
    return Table(head, table)


def _whiskers(cells: Sequence[Cell]) -> dict[str, Any]:
    """Error bars from low to high."""
    made: dict[str, Any] = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": "var(--whisker)"}
    made["array"] = [0.0 if cell.high is None else max(0.0, cell.high - cell.value) for cell in cells]
    made["arrayminus"] = [0.0 if cell.low is None else max(0.0, cell.value - cell.low) for cell in cells]
    return made


def trials(board: Board, task: Task) -> Chart | None:
    """Dev score of every learning rate that was tried, the chosen ones ringed."""
    colour = colours(board)
    traces: list[dict[str, Any]] = []
    table: list[list[str]] = []
    for row in board.rows:
        tried = [(one, trial) for one in row.evaluations.get(task.key, ()) for trial in one.record["trials"]]
        digits = words.decimals((trial["dev"] for _, trial in tried), task.unit)
        of_rate: dict[float, list[float]] = {}
        took: set[float] = set()
        for one, trial in tried:
            dev = dev_score(trial.get("dev"), task)
            reached = f"{trial.get('best_step')} of {trial.get('steps')}" if trial.get("best_step") is not None else words.NONE
            cells = [one.record["model"]["name"], str(trial.get("seed", words.NONE)), words.rate(trial["lr"])]
            cells += [words.number(dev, digits), reached, words.duration(trial.get("seconds"))]
            table.append([*cells, "chosen" if trial.get("chosen") else ""])
            if dev is not None:
                of_rate.setdefault(trial["lr"], []).append(dev)
                if trial.get("chosen"):
                    took.add(trial["lr"])
        if not of_rate:
            continue
        points = sorted(of_rate.items())
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(words.short(row.name)),
                "x": [lr for lr, _ in points],
                "y": [sum(values) / len(values) for _, values in points],
                "line": {"color": colour[row.name], "width": 1.5, "dash": "dot" if row.role == "control" else "solid"},
                "marker": {"size": [10 if lr in took else 4 for lr, _ in points], "opacity": 1, "line": {"width": 0}},
                "meta": [label(row.name)],  # not in the template, where a % would be read
                "hovertemplate": "<b>%{meta[0]}</b><br>lr %{x:.3g}: dev %{y:.4g}<extra></extra>",
                "showlegend": False,
            }
        )
    if not table:
        return None
    rates = sorted({lr for trace in traces for lr in trace["x"]})
    plan = layout(
        xaxis={
            "type": "log",
            "title": {"text": "learning rate"},
            "tickvals": _spread(rates),
            "ticktext": [words.rate(lr) for lr in _spread(rates)],
        },
        yaxis={"title": {"text": label(f"dev {words.measure(task.measure, task.unit)}")}, "automargin": True},
    )
    return Chart(
        f"trials-{task.key}",
        f"{task.title}: {task.label}" if task.title != task.label else task.title,
        {"data": traces, "layout": plan},
        Table(["Model", "Seed", "Learning rate", "Dev", "Best after update", "Time", ""], table),
        note=f"{task.better} is better",
        height=260,
        says=f"Dev {task.measure} against the learning rate on {task.label}; every trial is in the table below it.",
    )


def _spread(rates: Sequence[float]) -> list[float]:
    """At most six of the learning rates, for the axis."""
    step = max(1, math.ceil(len(rates) / 6))
    return list(rates[::step])


def dev_score(dev: float | None, task: Task) -> float | None:
    """As the measure is read: sweeps maximise, and store error rates with a minus."""
    return dev if dev is None or task.better == "higher" else abs(dev)


def heat(board: Board, row: Row, index: int, top: float) -> Chart | None:
    """The weights that each task gives to the layers of one model, mean over seeds. top: the largest weight on the page."""
    tasks = [task for task in board.tasks if layer_weights(row, task)]
    if not tasks:
        return None
    z = [layer_weights(row, task) for task in tasks]
    width = max(map(len, z))
    if width < 2:
        return None  # nothing to weigh
    peaks = [[f"{value:.2f}" if value == max(line) else "" for value in line] for line in z]
    trace = {
        "type": "heatmap",
        "z": [[*line, *[None] * (width - len(line))] for line in z],
        "x": list(range(width)),
        "y": list(range(len(tasks))),
        "text": peaks,
        "texttemplate": "%{text}",
        "textfont": {"size": 10, "color": "var(--ink)"},
        "colorscale": [[0, "var(--heat0)"], [0.5, "var(--heat1)"], [1, "var(--heat2)"]],
        "zmin": 0,
        "zmax": top,
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
        "hovertext": [
            [f"{label(task.label)}, layer {i}: {value:.3f}" for i, value in enumerate(line)]
            for task, line in zip(tasks, z, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    plan = layout(
        xaxis={
            "title": {"text": "layer (0: what the first layer reads)"},
            "dtick": 1 if width <= 14 else 4,
            "showgrid": False,
            "ticks": "",
        },
        yaxis={
            "tickvals": list(range(len(tasks))),
            "ticktext": [label(words.short(task.label, 16)) for task in tasks],
            "range": [len(tasks) - 0.5, -0.5],
            "showgrid": False,
            "automargin": True,
            "ticks": "",
        },
    )
    plan["margin"] |= {"r": 8, "t": 4}
    return Chart(
        f"heat-{index}",
        row.name,
        {"data": [trace], "layout": plan},
        Table(
            ["Task", *map(str, range(width))],
            [[task.label, *(f"{value:.3f}" for value in line)] for task, line in zip(tasks, z, strict=True)],
        ),
        note=f"{row.role}{f', mean of n = {row.n} models' if row.n > 1 else ''}",
        height=64 + 28 * len(tasks),
        says=f"Heat map of layer weights of {row.name}; the numbers are in the table below it.",
    )


def layer_weights(row: Row, task: Task) -> list[float]:
    """Mean over seeds (and members whose depth is the same)."""
    lists = [weights for one in row.evaluations.get(task.key, ()) for weights in one.record["layer_weights"] if weights]
    lists = [weights for weights in lists if len(weights) == len(lists[0])]
    return [sum(column) / len(lists) for column in zip(*lists, strict=True)] if lists else []


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    """Round tick marks from 0, with prefixes."""
    top = 1.1 * max(values, default=1.0) or 1.0
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (step * factor) <= 6)
    marks = [i * step for i in range(int(top / step) + 1)]
    return {"tickvals": marks, "ticktext": [words.mark(mark) for mark in marks]}


def _ticks_log(values: Sequence[float]) -> dict[str, Any]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = [factor * 10.0**power for power in range(low, high + 1) for factor in ((1, 2, 5) if high - low < 4 else (1,))]
    return {"tickvals": marks, "ticktext": [words.mark(mark) for mark in marks]}
