"""`sottovoce bench`: how fast models are on this machine, and what their parts cost here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import app, say


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Students or teachers: folders, hub ids, 'demo'.")
    ] = None,
    vs: Annotated[str | None, typer.Option("--vs", help="What they are compared with; the first model by default.")] = None,
    seconds: Annotated[
        list[float] | None, typer.Option("--seconds", help="Length of the clips; repeatable. Default 1 2 5 10 30.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="Clips at a time; repeatable. Default 1 8.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each runtime; torch's own by default.")
    ] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtimes",
            help="torch, fast (prepared for a CPU), compile, onnx, transformers (its own class); repeatable. Default torch.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything has its turn.")] = 6,
    fit_cost: Annotated[
        bool, typer.Option("--fit-cost", help="Instead: time single parts and fit the costs that a budget in latency needs.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The record; bench.json by default, latency.json with --fit-cost.")
    ] = None,
) -> None:
    """Measure how fast models are on this machine's CPU: latency, throughput and memory, in turns, each beside the others.

    Examples:

        sottovoce bench students/first --vs demo

        sottovoce bench students/first --vs demo --seconds 10 --batch 1 --threads 2 --runtimes torch --runtimes onnx

        sottovoce bench --fit-cost --threads 2 --out latency.json

    Costs fitted here make `sottovoce compress ... --budget latency pruning.budget.machine=latency.json` count milliseconds of this machine.
    """
    if fit_cost:
        if models or vs or batch or runtimes or len(seconds or ()) > 1:
            raise ValueError("--fit-cost times parts, not models: it takes --threads, --rounds, one --seconds and --out only")
        _fit_cost((seconds or [10.0])[0], threads, rounds, out or Path("latency.json"))
        return
    from sottovoce.core import ledger
    from sottovoce.timing import measure, table

    record = measure.bench(
        models or [],
        vs=vs,
        runtimes=runtimes or ["torch"],
        seconds=seconds or measure.SECONDS,
        batches=batch or measure.BATCHES,
        rounds=rounds,
        threads=threads,
        say=say,
    )
    out = out or Path("bench.json")
    ledger.write(out, record)
    table.show(record)
    say(f"written to {out}; sottovoce report {out} draws it")


def _fit_cost(seconds: float, threads: int | None, rounds: int, out: Path) -> None:
    """Times the parts of models on this machine and writes the costs that a budget in latency counts with."""
    from sottovoce.core import ledger
    from sottovoce.timing import fit

    record = fit.fit(seconds, threads=threads, rounds=rounds, say=say)
    ledger.write(out, record)
    fit.show(record)
    say(f"costs written to {out}; to count them: --budget latency pruning.budget.machine={out}")
