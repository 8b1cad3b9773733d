"""`sottovoce evaluate`: what models still do, as records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AllowCommands, Device, app, say


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Students or teachers (and KEY=VALUE), 'log-mel', 'fbank', or 'untrained:MODEL'."),
    ],
    data: Annotated[
        str, typer.Option("--data", help="A task file (.yaml), 'testbed', or for one task a corpus folder or a manifest.")
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Which task, or which of the task file's; repeatable. All by default.")
    ] = None,
    vs: Annotated[
        list[str] | None, typer.Option("--vs", help="Measured beside them; the first is the teacher. Repeatable.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for results; its records.jsonl gets a line per model and task.")
    ] = Path("results"),
    root: Annotated[
        Path | None, typer.Option("--root", help="What the task file's paths start from; its folder by default.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of heads and batches; repeatable. Default 1 2 3.")
    ] = None,
    device: Device = "auto",
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for features; by default in $SOTTOVOCE_CACHE.")] = None,
    cache_gb: Annotated[float, typer.Option("--cache-gb", help="Most that features may take on disk; 0 keeps nothing.")] = 10.0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="So many tasks at a time, each on one core.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is measured already.")] = False,
    allow_commands: AllowCommands = False,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="'superb': the benchmark's own updates of the probes, hours instead of seconds."),
    ] = None,
) -> None:
    """Measure what MODEL still does: SUPERB's tasks with a frozen encoder, and label-free fidelity to a teacher.

    Examples:

        sottovoce evaluate students/first --vs demo --task fidelity --data /data/speech

        sottovoce evaluate students/first --vs demo --vs log-mel --task ks --data /data/speech_commands_v0.01

        sottovoce evaluate students/first --vs demo --data testbed --root /data/testbed --out results

    Each pair of model and task becomes a line of `records.jsonl`, which `sottovoce report` draws. A pair that fails does not end the
    others. KEY=VALUE overrides any field of the task file, or of the single task, e.g. training.lrs=[1e-3,3e-3].
    """
    from sottovoce.evaluation.suite.run import evaluate as run

    overrides = [text for text in models if "=" in text and not Path(text).exists()]
    run(
        [text for text in models if text not in overrides],
        data=data,
        tasks=task or ["all"],
        vs=vs or [],
        out=out,
        root=root,
        seeds=seed,
        device=device,
        cache=cache,
        cache_gb=cache_gb,
        jobs=jobs,
        fresh=fresh,
        allow_commands=allow_commands,
        schedule=schedule,
        overrides=overrides,
        say=say,
    )
    say(f"results in {out}; to see them: sottovoce report {out}")
