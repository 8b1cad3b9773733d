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


def say(text: str) -> None:
    """Prints a line once, however many processes run the verb."""
    if os.environ.get("RANK", "0") == "0":  # torchrun starts many of us
        typer.echo(text)


def _fail(text: str, status: int) -> NoReturn:
    """Ends the process with `status` and one line that says why."""
    print(f"sottovoce: {text}", file=sys.stderr)
    sys.exit(status)


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
        status = getattr(
            problem, "exit_status", 2 if isinstance(problem, ValueError) else 1 if isinstance(problem, OSError) else None
        )
        if os.environ.get("SOTTOVOCE_TRACE") or status is None:
            raise  # what says no way out is a fault of ours and shows its trace
        _fail(str(problem), status)
