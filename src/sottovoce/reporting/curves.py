"""Charts of one run: likeness to the teacher, loss and sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sottovoce.reporting import text
from sottovoce.reporting.collect import ReportedRun
from sottovoce.reporting.figure import Chart, Table, label, layout

POINTS = 1500  # of a curve; more are not seen and make the page slow


def fidelity(run: ReportedRun, index: int) -> Chart | None:
    """Draws the likeness to the teacher, layer by layer. Where the widths differ, only the likeness after the best linear map."""
    found = run.record.get("fidelity")
    if not found or not found["layers"]:
        return None
    rows = found["layers"]
    layers = [row["layer"] for row in rows]

    def trace(key: str, name: str, colour: str) -> dict[str, Any]:
        return {
            "type": "bar",
            "name": name,
            "x": layers,
            "y": [row[key] for row in rows],
            "marker": {"color": colour},
            "hovertemplate": f"layer %{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
        }

    same = comparable(run)
    bars = [("cosine", "as is", "var(--s1)")] if same else []
    bars += [("mapped", "after the best linear map", "var(--s1-soft)" if same else "var(--s1)")]
    shown = [key for key, _, _ in bars]
    low = min(0.0, *(row[key] for row in rows for key in shown if row[key] is not None))
    plan = layout(
        xaxis={
            "title": {"text": "layer (0: what the first layer reads)"},
            "dtick": 1 if len(rows) <= 14 else 4,
            "showgrid": False,
            "ticks": "",
        },
        yaxis={"title": {"text": "cosine to the teacher"}, "range": [low, 1], "automargin": True},
    )
    plan |= {"barmode": "group", "bargap": 0.25}
    seconds = run.record.get("held_out_seconds")
    return Chart(
        f"fidelity-{index}",
        "Likeness to the teacher, layer by layer",
        {
            "data": [trace(*bar) for bar in bars],
            "layout": plan,
        },
        Table(
            ["Layer", *(["Cosine"] if same else []), "After the best linear map", "Variance explained by it"],
            [[str(row["layer"]), *(text.number(row[key], 3) for key in (*shown, "explained"))] for row in rows],
        ),
        note=f"Mean cosine over frames{f', {text.duration(seconds)} of held-out audio' if seconds else ''}; 1 is the teacher itself.",
        height=260,
        legend=[(name, colour, "square") for _, name, colour in bars],
        says="Bar chart of the cosine to the teacher for each layer; the numbers are in the table below it.",
    )


def comparable(run: ReportedRun) -> bool:
    """Whether student and teacher have one width, so that their frames have a cosine. Where they differ, records hold none,
    and older ones hold 0 for every layer."""
    return any(row["cosine"] for row in run.record["fidelity"]["layers"])


def curves(run: ReportedRun, index: int) -> list[Chart]:
    """Draws loss and sparsity over all stages, one after another. What has fewer than two points of a line stands as a table."""
    starts, end = _starts(run)
    losses = [(row, starts[row["stage"]] + row["step"]) for row in run.rows]
    made = []
    train = [(x, row["loss"]) for row, x in losses if "loss" in row]
    valid = [(x, row["valid/loss"]) for row, x in losses if "valid/loss" in row]
    if train or valid:
        data = []
        for stage, group in groupby(((row, x) for row, x in losses if "loss" in row), key=lambda pair: pair[0]["stage"]):
            points = _thin([(x, row["loss"]) for row, x in group])
            line = _line(points, "training", "var(--s1)", "%{meta[0]}, update %{x}: %{y:.4g}")
            data.append({**line, "meta": [label(stage)]})
        for stage, group in groupby(((row, x) for row, x in losses if "valid/loss" in row), key=lambda pair: pair[0]["stage"]):
            points = _thin([(x, row["valid/loss"]) for row, x in group])
            line = _line(points, "held out", "var(--s2)", "%{meta[0]}, held out, update %{x}: %{y:.4g}")
            data.append({**line, "meta": [label(stage)], "mode": "markers+lines" if len(points) < 50 else "lines"})
            data[-1] |= {"marker": {"size": 7}, "line": {"color": "var(--s2)", "width": 1.2}}
        plan = _stages(starts, end, "loss")
        made.append(
            Chart(
                f"loss-{index}",
                "Loss",
                {"data": data, "layout": plan} if _is_line(data) else None,
                _journal(run),
                note="All stages, one after another; held out with the gates as they would be cut.",
                height=260,
                legend=[("training", "var(--s1)", "line"), *([("held out", "var(--s2)", "dot")] if valid else [])],
                says="Loss over the updates of all stages; the numbers are in the table below it.",
            )
        )
    sparse = [(row, x) for row, x in losses if "sparsity" in row and "target" in row]
    if sparse:
        data = [
            {
                **_line(_thin([(x, row["target"]) for row, x in sparse]), "target", "var(--muted)", "target %{y:.1%}"),
                "line": {"color": "var(--muted)", "width": 1.5, "dash": "dash"},
            },
            _line(_thin([(x, row["sparsity"]) for row, x in sparse]), "actual", "var(--s1)", "actual %{y:.1%}, update %{x}"),
        ]
        plan = _stages(starts, end, "share closed")
        plan["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
        made.append(
            Chart(
                f"sparsity-{index}",
                "Sparsity",
                {"data": data, "layout": plan} if _is_line(data) else None,
                Table(
                    ["Stage", "Update", "Sparsity", "Target"],
                    [
                        [row["stage"], str(row["step"]), text.percent(row["sparsity"]), text.percent(row["target"])]
                        for row, _ in _thin(sparse, 200)
                    ],
                ),
                note="What the gates have closed, as a share of what the budget counts.",
                height=260,
                legend=[("actual", "var(--s1)", "line"), ("target", "var(--muted)", "dash")],
                says="Actual and target sparsity over the updates; the numbers are in the table below it.",
            )
        )
    return made


def _is_line(traces: Sequence[Mapping[str, Any]]) -> bool:
    return any(len(trace["x"]) > 1 for trace in traces)


def _starts(run: ReportedRun) -> tuple[dict[str, int], int]:
    """The update of the run at which each stage begins, and the last update of the run."""
    last: dict[str, int] = {}
    for row in run.rows:
        last[row["stage"]] = max(int(row["step"]), last.get(row["stage"], 0))
    starts, at = {}, 0
    for stage, steps in last.items():
        starts[stage] = at
        at += steps
    return starts, at


def _stages(starts: Mapping[str, int], end: int, title: str) -> dict[str, Any]:
    plan = layout(
        xaxis={"title": {"text": "update"}, "range": [0, 1.02 * end]},
        yaxis={"title": {"text": title}, "automargin": True},
    )
    plan["shapes"] = [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "var(--line)", "width": 1}}
        for x in starts.values()
    ]
    plan["annotations"] = [
        {
            "x": x,
            "y": 1,
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "bottom",
            "text": label(stage),
            "showarrow": False,
            "font": {"size": 11, "color": "var(--muted)"},
        }
        for stage, x in starts.items()
    ]
    plan["margin"]["t"] = 24
    return plan


def _line(points: Sequence[tuple[float, float]], name: str, colour: str, hover: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": colour, "width": 1.8},
        "hovertemplate": f"{hover}<extra></extra>",
    }


def _journal(run: ReportedRun) -> Table:
    """The rows of the journal, at most two hundred, evenly chosen."""
    rows = _thin(list(run.rows), 200)
    names = list(dict.fromkeys(key for row in rows for key in row if key not in ("stage", "step")))
    table = [[row["stage"], str(row["step"]), *(f"{row[name]:.4g}" if name in row else "" for name in names)] for row in rows]
    return Table(["Stage", "Update", *names], table)


def _thin(rows: Sequence[Any], most: int = POINTS) -> list[Any]:
    """At most `most` of them, evenly, the last one included."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]
