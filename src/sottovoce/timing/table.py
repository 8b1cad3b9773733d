"""Prints a comparison of speeds as a table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def show(record: dict[str, Any]) -> None:
    """Prints the record of `bench`: one section per clip, one row per model and runtime."""
    console, reference, machine = Console(), record["reference"], record["machine"]
    console.print(f"{machine['cpu']}, threads: {machine['threads']}, torch {machine['torch']}", highlight=False)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("model", "runtime"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "p95", "RTF", "s/s", "MB", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in record["rows"]:
        clip = f"{row['batch']} x {row['seconds']:g} s"
        if clip != last:
            table.add_section()
            table.add_row(f"[bold]{clip}")
        numbers = (
            f"{row['median_ms']:,.1f}",
            f"{row['p95_ms']:,.1f}",
            f"{row['real_time_factor']:.4f}",
            f"{row['audio_s_per_s']:,.0f}",
            f"{row['peak_mb']:,.0f}",
            _speedup(row, reference),
        )
        table.add_row(row["model"], row["runtime"], *numbers)
        last = clip
    console.print(table)
    console.print(
        f"ms, p95: median and 95th percentile of a call. RTF: seconds of computing per second of audio; s/s: the reverse. MB: peak memory "
        f"of the process. speed-up: relative to {reference['model']} on {reference['runtime']}, median of {record['rounds']} rounds and "
        f"its interval. Load of the machine before and after: {' and '.join(str(load) for load in record['load'])}.",
        highlight=False,
    )


def _speedup(row: dict[str, Any], reference: dict[str, str]) -> str:
    speedup = row["speedup"]
    if speedup is None:
        return "1" if (row["model"], row["runtime"]) == (reference["model"], reference["runtime"]) else "-"
    return f"{speedup['value']:.2f} ({speedup['low']:.2f}-{speedup['high']:.2f})"
