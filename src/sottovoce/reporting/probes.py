"""How the probes were trained: the dev score of every learning rate, and the weight of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sottovoce.reporting import text
from sottovoce.reporting.board import Board, Row, TaskColumn
from sottovoce.reporting.figure import Chart, Table, label, layout
from sottovoce.reporting.style import colours


def trials(board: Board, task: TaskColumn) -> Chart | None:
    """Draws the dev score of every learning rate, or strength of L2, that was tried; the points of the chosen ones are larger.

    Where no model has tried two of them there is nothing to plot: the table stands alone.
    """
    colour = colours(board)
    traces: list[dict[str, Any]] = []
    table: list[list[str]] = []
    kinds: set[str] = set()
    for row in board.rows:
        tried = [(one, trial) for one in row.evaluations.get(task.key, ()) for trial in one.record["trials"]]
        digits = text.decimals((trial["dev"] for _, trial in tried), task.unit)
        of_rate: dict[float, list[float]] = {}
        took: set[float] = set()
        for one, trial in tried:
            dev = dev_score(trial.get("dev"), task)
            reached = f"{trial.get('best_step')} of {trial.get('steps')}" if trial.get("best_step") is not None else text.NONE
            kind = "l2" if "l2" in trial else "lr"
            rate = trial[kind]
            kinds.add(kind)
            cells = [one.record["model"]["name"], str(trial.get("seed", text.NONE)), text.rate(rate)]
            cells += [text.number(dev, digits), reached, text.duration(trial.get("seconds"))]
            table.append([*cells, "chosen" if trial.get("chosen") else "left out" if trial.get("left_out") else ""])
            if dev is not None:
                of_rate.setdefault(rate, []).append(dev)
                if trial.get("chosen"):
                    took.add(rate)
        if not of_rate:
            continue
        points = sorted(of_rate.items())
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(text.short(row.name)),
                "x": [lr for lr, _ in points],
                "y": [sum(values) / len(values) for _, values in points],
                "line": {"color": colour[row.name], "width": 1.5, "dash": "dot" if row.role == "control" else "solid"},
                "marker": {"size": [10 if lr in took else 4 for lr, _ in points], "opacity": 1, "line": {"width": 0}},
                "meta": [label(row.name)],  # not in the template, where a % would be read
                "hovertemplate": "<b>%{meta[0]}</b><br>%{x:.3g}: dev %{y:.4g}<extra></extra>",
                "showlegend": False,
            }
        )
    if not table:
        return None
    tried_what = "strength of L2" if kinds == {"l2"} else "learning rate"  # one question has one kind
    rates = sorted({lr for trace in traces for lr in trace["x"]})
    plan = layout(
        xaxis={
            "type": "log",
            "title": {"text": tried_what},
            "tickvals": _spread(rates),
            "ticktext": [text.rate(lr) for lr in _spread(rates)],
        },
        yaxis={"title": {"text": label(f"dev {text.measure(task.measure, task.unit)}")}, "automargin": True},
    )
    return Chart(
        f"trials-{task.key}",
        f"{task.title}: {task.label}" if task.title != task.label else task.title,
        {"data": traces, "layout": plan} if any(len(trace["x"]) > 1 for trace in traces) else None,
        Table(["Model", "Seed", tried_what[0].upper() + tried_what[1:], "Dev", "Best after update", "Time", ""], table),
        note=f"{task.better} is better",
        height=260,
        says=f"Dev {task.measure} against the {tried_what} on {task.label}; every trial is in the table below it.",
    )


def _spread(rates: Sequence[float]) -> list[float]:
    """At most six of the learning rates, for the axis."""
    step = max(1, math.ceil(len(rates) / 6))
    return list(rates[::step])


def dev_score(dev: float | None, task: TaskColumn) -> float | None:
    """The dev score as the measure is read: sweeps maximise, and store error rates with a minus."""
    return dev if dev is None or task.better == "higher" else abs(dev)


def heat(board: Board, row: Row, index: int, top: float) -> Chart | None:
    """Draws the layer weights of every task for one model, means over seeds. top: the largest weight on the page."""
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
            "ticktext": [label(text.short(task.label, 16)) for task in tasks],
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


def layer_weights(row: Row, task: TaskColumn) -> list[float]:
    """Layer weights of one task, means over seeds and over members of the same depth."""
    lists = [weights for one in row.evaluations.get(task.key, ()) for weights in one.record["layer_weights"] if weights]
    lists = [weights for weights in lists if len(weights) == len(lists[0])]
    return [sum(column) / len(lists) for column in zip(*lists, strict=True)] if lists else []
