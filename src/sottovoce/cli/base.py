"""What the verbs share: the app they register at, options that mean the same everywhere, what is printed, how a mistake ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A student, or any teacher: folder, hub id, 'demo'.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any recipe field, e.g. stages.prune.lr=1e-4")]
Data = Annotated[
    str, typer.Option("--data", help="A folder of audio, a manifest (tsv, csv, JSON lines, Lhotse cuts), or 'demo'.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the result and the run; repeat the command to go on after a stop.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Scale the whole schedule, all stages, to this many updates.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed; the recipe's by default.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; a GPU is used when there is one.")]
AllowCommands = Annotated[
    bool,
    typer.Option(
        "--allow-commands", help="Run commands and fetch from addresses that a Lhotse manifest names; else they are skipped."
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="'recipe': train by the recipe's own schedule, however often it passes over the data."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON; progress goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but mistakes.")]
Fresh = Annotated[bool, typer.Option("--fresh/--resume", help="Start over, or go on where the folder's run stands (default).")]


def _version(asked: bool) -> None:
    """Prints the version and ends, if asked to."""
    if asked:
        import sottovoce

        typer.echo(f"sottovoce {sottovoce.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Make large self-supervised speech encoders small.

    Start with:  `sottovoce demo`
    """


def allowing(allow_commands: bool) -> list[str]:
    """The override of a recipe that says so."""
    return ["data.allow_commands=true"] if allow_commands else []


def print_json(found: Any) -> None:
    """Prints what a verb found, for people and for programs."""
    typer.echo(json.dumps(found, indent=1))


def wants_long(schedule: str | None) -> bool:
    """Whether ``--schedule recipe`` was given. ValueError for another schedule."""
    if schedule not in (None, "recipe"):
        raise ValueError(f"--schedule is 'recipe' or left out, not '{schedule}'; --steps N scales the schedule")
    return schedule == "recipe"


def hush(quiet: bool) -> None:
    """Keeps progress of a training run off the screen, if asked to."""
    if quiet:
        from sottovoce.train.track import console

        console.quiet = True


def say(text: str) -> None:
    """Prints a line once, however many processes run the verb."""
    if os.environ.get("RANK", "0") == "0":  # torchrun starts many of us
        typer.echo(text)


def _fail(text: str, status: int) -> NoReturn:
    """Ends the process with `status` and one line that says why."""
    print(f"sottovoce: {text}", file=sys.stderr)
    sys.exit(status)


MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "killed by signal: Killed")
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read timeout")


def _resources(problem: BaseException) -> str:
    """A plain sentence for lack of memory, or for a process of the run that was lost; "" for anything else."""
    text = str(problem)
    if isinstance(problem, MemoryError) or (isinstance(problem, RuntimeError) and any(sign in text for sign in MEMORY)):
        return (
            "there is not enough memory; take a smaller data.seconds_per_batch (with stages.*.accumulate for the same updates), "
            "precision=bf16, or fewer data.workers, and run the same command again"
        )
    if isinstance(problem, RuntimeError) and int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in text for sign in LOST):
        return (
            f"process {os.environ.get('RANK', '?')} lost its connection to another process of this run, which has ended; its own message "
            "says why. Run the same command again to go on from the last checkpoint"
        )
    return ""


def guarded(call: Callable[[], Any]) -> None:
    """Runs `call`; a user's mistake is one plain message and status 2, a stop on request 143, a missed budget or a full disk 1.

    SOTTOVOCE_TRACE=1 shows the trace of those, too.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        call()
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Exception as problem:
        if not os.environ.get("SOTTOVOCE_TRACE") and (text := _resources(problem)):
            _fail(text, 1)
        status = getattr(
            problem, "exit_status", 2 if isinstance(problem, ValueError) else 1 if isinstance(problem, OSError) else None
        )
        if os.environ.get("SOTTOVOCE_TRACE") or status is None:
            raise  # what says no way out is a fault of ours and shows its trace
        _fail(str(problem), status)
