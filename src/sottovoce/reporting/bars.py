"""All models on one task: bars with intervals, and a table of every measure."""

from __future__ import annotations

from collections.abc import Sequence

from sottovoce.reporting import text
from sottovoce.reporting.board import Board, Cell, Row, TaskColumn
from sottovoce.reporting.figure import Chart, Table, beside, label, layout
from sottovoce.reporting.style import axis_title, colours, hover, interval, places, whiskers

FAR = 3.0


def bars(board: Board, task: TaskColumn) -> Chart:
    """Draws all models on one task. A single model gets no bar, only its measures."""
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
        "error_x": whiskers(cells),
        "hovertext": [hover(row, cell, task, "", digits) for row, cell in zip(rows, cells, strict=True)],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    # An interval much wider than the largest value runs out of the plot; otherwise it would make the bars too short to compare.
    most = FAR * max((abs(cell.value) for cell in cells), default=1.0)
    ends = [min(max(end, -most), most) for cell in cells for end in (cell.value, cell.low, cell.high) if end is not None]
    plan = layout(
        xaxis={
            "range": [1.06 * min(0.0, *ends), 1.02 * max(0.0, *ends) or 1.0],
            "nticks": 5,
            "zeroline": True,
            "zerolinecolor": "var(--line)",
        },
        yaxis={
            "tickvals": heights,
            "ticktext": [label(text.short(row.name)) for row in rows],
            "range": [len(rows) - 0.45, -0.55],
            "showgrid": False,
            "automargin": True,
            "ticks": "",
        },
    )
    plan["margin"] = {"l": 8, "r": 52, "t": 6, "b": 28}
    plan["annotations"] = [beside(y, text.number(cell.value, digits)) for y, cell in zip(heights, cells, strict=True)]
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
        {"data": [trace], "layout": plan} if len(rows) > 1 else None,
        _measures(rows, task),
        note=axis_title(task),
        height=46 + 30 * len(rows),
        says=f"Bar chart of {task.measure} on {task.label} for {len(rows)} models; the numbers are in the table below it.",
    )


def _measures(rows: Sequence[Row], task: TaskColumn) -> Table:
    """Every measure of the task, with intervals; of several seeds the mean and the range."""
    names = list(dict.fromkeys(name for row in rows for one in row.evaluations[task.key] for name in one.record["measures"]))
    head, table = ["Model", "n"], []
    for name in names:
        head += [text.measure(name), "interval or range"]
    spread: dict[str, list[Cell | None]] = {name: [] for name in names}
    units: dict[str, str] = {}
    for name in names:
        for row in rows:
            listed = [one.record["measures"].get(name) for one in row.evaluations[task.key]]
            found = [measure for measure in listed if measure is not None and measure["value"] is not None]
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
            digits = text.decimals((each.value for each in spread[name] if each is not None), units[name])
            cells += [text.NONE, ""] if cell is None else [text.number(cell.value, digits), interval(cell, digits)]
        table.append(cells)
    return Table(head, table)
