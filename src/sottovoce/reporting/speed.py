"""What is drawn of a comparison of speed: latency of every model on every runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sottovoce.reporting import text
from sottovoce.reporting.collect import Bench
from sottovoce.reporting.figure import Chart, Table, beside, label, layout
from sottovoce.reporting.style import SERIES


def charts(benches: Sequence[Bench]) -> list[Chart]:
    """One for each record and batch size."""
    made = []
    for i, bench in enumerate(benches):
        for batch in dict.fromkeys(row["batch"] for row in bench.record["rows"]):
            made.append(chart(bench, batch, f"speed-{i}-{batch}"))
    return made


def chart(bench: Bench, batch: int, key: str) -> Chart:
    """A point for each clip length at the median, with a line to the 95th percentile; times differ a hundredfold, so in powers of ten."""
    rows = [row for row in bench.record["rows"] if row["batch"] == batch]
    names = list(dict.fromkeys(named(row) for row in rows))
    lengths = sorted({row["seconds"] for row in rows})
    colours = {seconds: f"var(--s{i % SERIES + 1})" for i, seconds in enumerate(lengths)}
    data = [trace([row for row in rows if row["seconds"] == seconds], names, colours[seconds]) for seconds in lengths]
    plan = layout(
        xaxis={"type": "log", "title": {"text": "latency in ms"}, **ticks(rows)},
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [label(text.short(name, 34)) for name in names],
            "range": [len(names) - 0.45, -0.55],
            "automargin": True,
            "ticks": "",
        },
    )
    gains = [(names.index(named(row)), row["speedup"]["value"]) for row in rows if row.get("speedup") is not None]
    told = len(lengths) == 1 and bool(gains)  # with several lengths they stand in the table alone
    if told:
        plan["margin"] |= {"r": 52}
        plan["annotations"] = [beside(y, f"{value:.1f}×") for y, value in gains]
    clips = "one clip" if batch == 1 else f"{batch} clips"
    return Chart(
        key,
        f"Latency, {clips} at a time",
        {"data": data, "layout": plan},
        Table(HEAD, [numbers(row) for row in rows], left=2),
        note=f"{where(bench.record)} Point: median; line: to the 95th percentile{'; right: speed-up' if told else ''}. {bench.file}",
        height=70 + 30 * len(names),
        legend=[(f"{seconds:g} s", colours[seconds], "dot") for seconds in lengths],
        says=f"Latency of {len(names)} models on their runtimes for clips of {', '.join(f'{x:g}' for x in lengths)} seconds; "
        "the numbers are in the table below it.",
    )


def ticks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """1, 2 and 5 times every power of ten within the axis, written out: plotly itself would shorten 200 to 2."""
    low, high = 0.8 * min(row["median_ms"] for row in rows), 1.15 * max(max(row["p95_ms"], row["median_ms"]) for row in rows)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [value for power in powers for digit in (1, 2, 5) if low <= (value := digit * 10.0**power) <= high]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values], "range": [math.log10(low), math.log10(high)]}


def trace(rows: Sequence[Mapping[str, Any]], names: Sequence[str], colour: str) -> dict[str, Any]:
    """The points of one clip length."""
    beyond = [max(0.0, row["p95_ms"] - row["median_ms"]) for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [row["median_ms"] for row in rows],
        "y": [names.index(named(row)) for row in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": beyond,
            "arrayminus": [0.0] * len(rows),
            "thickness": 1.5,
            "width": 0,
            "color": colour,
        },
        "marker": {"color": colour, "size": 10},
        "text": [f"{label(named(row))}<br>{row['seconds']:g} s of audio: {row['median_ms']:.3g} ms" for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
    }


HEAD = [
    "Model",
    "Runtime",
    "Clip",
    "Median, ms",
    "95th percentile, ms",
    "Real-time factor",
    "Audio s / s",
    "Peak, MB",
    "Speed-up",
]


def numbers(row: Mapping[str, Any]) -> list[str]:
    gain = row.get("speedup")
    faster = text.NONE if gain is None else f"{gain['value']:.2f} ({gain['low']:.2f}–{gain['high']:.2f})"
    times = [f"{row['median_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['real_time_factor']:.4f}", f"{row['audio_s_per_s']:.1f}"]
    return [row["model"], row["runtime"], f"{row['seconds']:g} s", *times, f"{row['peak_mb']:.0f}", faster]


def named(row: Mapping[str, Any]) -> str:
    """A line of the chart."""
    return f"{row['model']}, {row['runtime']}"


def where(record: Mapping[str, Any]) -> str:
    """The machine, as far as the record knows it, and what speed-ups are against."""
    machine = record.get("machine") if isinstance(record.get("machine"), dict) else {}
    threads = record.get("threads") or (machine or {}).get("threads")
    parts = [str((machine or {}).get("cpu") or ""), f"{threads} thread{'' if threads == 1 else 's'}" if threads else ""]
    against = record.get("reference") or {}
    known = ", ".join(part for part in parts if part)
    return f"{known}{'. ' if known else ''}Speed-ups are against {against.get('model')}, {against.get('runtime')}."
