"""`sottovoce compare`: which of two models is better, on the same recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sottovoce.cli.base import AllowCommands, AsJson, Device, Quiet, app, hush, print_json
from sottovoce.cli.progress import Display


@app.command()
def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="A B", help="Two models as for evaluate, e.g. a student and 'log-mel' (and KEY=VALUE).")
    ],
    data: Annotated[
        str, typer.Option("--data", help="A task file (.yaml), 'testbed', or, with one --task, a corpus folder or a manifest.")
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task to measure; repeatable. All of the task file by default.")
    ] = None,
    vs: Annotated[
        str | None, typer.Option("--vs", help="A third model: which of the two is nearer to it? For --task quality-score.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for results: a line of its records.jsonl.")] = Path("results"),
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the task file's paths start from; its own by default.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed of the heads; repeatable. Default 1 2 3.")] = None,
    device: Device = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for features; inside $SOTTOVOCE_CACHE by default.")
    ] = None,
    cache_gb: Annotated[float, typer.Option("--cache-gb", help="Limit of the features on disk, in GB; 0 keeps none.")] = 10.0,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two models on the same recordings: the difference, its interval, and p values corrected for the number of tasks.

    Examples:

        sottovoce compare students/first students/second --task sid --data testbed --root /data/testbed

        sottovoce compare students/first log-mel --task ks --data /data/speech_commands_v0.01 --json

        sottovoce compare students/small demo-quality --vs distillmos --task quality-score --data /data/calls

    Tasks must score single recordings: verification, query by example and fidelity cannot be compared.
    """
    overrides = [text for text in models if "=" in text and not Path(text).exists()]
    named = [text for text in models if text not in overrides]
    if len(named) != 2:
        raise ValueError(f"compare takes two models, not {len(named)}; write: sottovoce compare A B --task TASK --data DATA")
    hush(quiet)
    with Display("compare", quiet) as display:
        display.show("opening models and data")
        from sottovoce.evaluation.suite import compare as comparison

        record = comparison.compare(
            *named,
            data=data,
            tasks=task or ["all"],
            vs=vs,
            out=out,
            root=root,
            seeds=seed,
            device=device,
            cache=cache,
            cache_gb=cache_gb,
            allow_commands=allow_commands,
            overrides=overrides,
            say=display.say(as_json),
        )
    if as_json:
        print_json(record)
    elif not quiet:
        _show(record)


def _show(record: dict[str, Any]) -> None:
    """Prints a row for each task and metric."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    one, other = (model["name"] for model in record["models"])
    table = Table("task", "measure", box=box.SIMPLE, pad_edge=False)
    for name in (one, other, "better by", "95 %", "p", "p, all tasks"):
        table.add_column(name, justify="right")
    for entry, result in record["tasks"].items():
        for metric, measure in result["measures"].items():
            better, unit = measure["better"], measure["models"][one]["unit"]
            values = (f"{measure['models'][model]['value']:.4g}" for model in (one, other))
            between = f"{better['low']:+.4g} to {better['high']:+.4g}"
            corrected = f"{measure['p_holm']:.3f}" if "p_holm" in measure else ""
            name = f"{metric}, {unit}" if unit else metric
            table.add_row(entry, name, *values, f"{better['value']:+.4g}", between, f"{measure['p']:.3f}", corrected)
    console = Console()
    console.print(table)
    console.print(
        f"better by: how much better {one} is than {other} (positive is better for every measure). p: the probability of such a difference "
        "by the choice of recordings alone; the last column is corrected for the number of tasks (Holm).",
        highlight=False,
    )
