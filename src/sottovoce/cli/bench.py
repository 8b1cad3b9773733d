"""`sottovoce bench`: the speed of models on this machine, and the cost of their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Quiet, app, hush, print_json, say
from sottovoce.cli.progress import Display


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Students or teachers: folders, hub ids, 'demo'.")
    ] = None,
    vs: Annotated[str | None, typer.Option("--vs", help="The model that speed-ups are against; the first by default.")] = None,
    seconds: Annotated[
        list[float] | None, typer.Option("--seconds", help="Seconds of audio in a clip; repeatable. Default 1 2 5 10 30.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="Clips in a batch; repeatable. Default 1 8.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each runtime; torch's number by default.")
    ] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtimes",
            help="torch, fast (prepared for a CPU), compile, onnx, transformers (its own class); repeatable. Default torch.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each model is timed.")] = 6,
    fit_cost: Annotated[
        bool, typer.Option("--fit-cost", help="Instead, time single parts and fit the costs that a budget in latency counts.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file; bench.json by default, latency.json with --fit-cost.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, throughput and memory of models on this machine's CPU. The models take turns, so that all meet the same load.

    Examples:

        sottovoce bench students/first --vs demo

        sottovoce bench students/first --vs demo --seconds 10 --batch 1 --threads 2 --runtimes torch --runtimes onnx

        sottovoce bench --fit-cost --threads 2 --out latency.json

    With --fit-cost, `sottovoce compress ... --budget latency pruning.budget.machine=latency.json` counts milliseconds of this machine.
    """
    hush(quiet)
    if fit_cost:
        if models or vs or batch or runtimes or len(seconds or ()) > 1:
            raise ValueError("--fit-cost times parts, not models: it takes --threads, --rounds, one --seconds and --out only")
        _fit_cost((seconds or [10.0])[0], threads, rounds, out or Path("latency.json"), as_json, quiet)
        return
    with Display("bench", quiet) as display:
        display.show("loading models")
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
            say=display.say(as_json),
        )
    out = out or Path("bench.json")
    ledger.write(out, record)
    if as_json:
        print_json(record)
    elif not quiet:
        table.show(record)
        say(f"written to {out}; to see it as a page: sottovoce report {out}")


def _fit_cost(seconds: float, threads: int | None, rounds: int, out: Path, as_json: bool, quiet: bool) -> None:
    """Times the parts of models on this machine and writes the costs that a budget in latency counts."""
    with Display("bench", quiet) as display:
        display.show("timing parts")
        from sottovoce.core import ledger
        from sottovoce.timing import fit

        record = fit.fit(seconds, threads=threads, rounds=rounds, say=display.say(as_json))
    ledger.write(out, record)
    if as_json:
        print_json(record)
    elif not quiet:
        fit.show(record)
        say(f"costs written to {out}; to count them: --budget latency pruning.budget.machine={out}")
