"""`sottovoce evaluate`: what models still do, as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from sottovoce.cli.base import AllowCommands, AsJson, Device, Quiet, app, hush, print_json, say
from sottovoce.cli.progress import Display

if TYPE_CHECKING:
    from sottovoce.evaluation.suite.pairs import TaskResult
    from sottovoce.evaluation.suite.run import Unmeasured


@app.command()
def evaluate(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Students or teachers (and KEY=VALUE), 'log-mel', 'fbank', 'untrained:MODEL', or a quality model, 'distillmos'; "
            "also audio files, which are measured like --data. Without a model, quality-score takes the shipped 'demo-quality'.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="A task file (.yaml), 'testbed', or for one task a corpus folder, a manifest or a file; repeatable."
        ),
    ] = None,
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
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many recordings of each split, for a first look.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure what MODEL still does: SUPERB's tasks with a frozen encoder, and label-free fidelity to a teacher.

    Examples:

        sottovoce evaluate students/first --vs demo --task fidelity --data /data/speech

        sottovoce evaluate students/first --vs demo --vs log-mel --task ks --data /data/speech_commands_v0.01

        sottovoce evaluate students/first --vs demo --data testbed --root /data/testbed --out results

        sottovoce evaluate students/first --task ks --data /data/speech_commands_v0.01 --limit 200

        sottovoce evaluate talk.wav call.mp3 --task quality-score

    Each pair of model and task becomes a line of `records.jsonl`, which `sottovoce report` draws. A pair that fails does not end the
    others. KEY=VALUE overrides any field of the task file, or of the single task, e.g. training.lrs=[1e-3,3e-3].
    """
    from sottovoce.data.sources import AUDIO

    models = given or []
    overrides = [text for text in models if "=" in text and not Path(text).exists()]
    files = [text for text in models if Path(text).suffix.lower() in AUDIO]
    sources = [*(data or []), *files]
    out_loud = (lambda text: None) if as_json or quiet else say
    failure: Unmeasured | None = None
    hush(quiet)
    with Display("evaluate", quiet) as display:
        from sottovoce.evaluation.suite.run import Unmeasured
        from sottovoce.evaluation.suite.run import evaluate as run

        try:
            results = run(
                [text for text in models if text not in (*overrides, *files)],
                data=sources,
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
                limit=limit,
                overrides=overrides,
                say=out_loud,
                watch=lambda state: display.show(state.text, state.share, state.left),
            )
        except Unmeasured as problem:
            failure, results = problem, problem.results
    if as_json:
        print_json(
            {
                "out": str(out),
                "results": [{**result.record, "new": result.new} for result in results],
                "not_measured": [] if failure is None else [each.line() for each in failure.failures],
            }
        )
    elif not quiet and results:
        _summary(results, sources, out)
    if failure is not None:
        raise failure


def _summary(results: Sequence[TaskResult], sources: Sequence[str], out: Path) -> None:
    """The scores as a table, where they are, and what to do next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sottovoce.core.registry import TASKS
    from sottovoce.evaluation.suite.run import scores

    for result in results:
        for line in TASKS.get(result.record["task"]["name"]).lines(result.record, out):
            say(line)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("model", "task", "score (95 % interval)"):
        table.add_column(head, overflow="fold")
    for result in results:
        record = result.record
        table.add_row(Text(record["model"]["name"]), Text(record["task"]["entry"]), Text(scores(record)))
    Console().print(table)
    say(f"results in {out}; to see them: sottovoce report {out}")
    names = list(dict.fromkeys(result.record["model"]["name"] for result in results))
    if len(names) > 1:
        say(f"to see whether two of them differ on the same recordings: sottovoce compare MODEL OTHER --data {sources[0]}")
    if any("limit" in result.record["data"] for result in results):
        say("these are first looks at a few recordings; without --limit all are used")
