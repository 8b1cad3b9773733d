"""What the verbs share: the app, common options, printing, and how errors end."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sottovoce.core.plain_warning import PlainWarning

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A student, or any teacher: folder, hub id, 'demo'.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any recipe field, e.g. stages.prune.lr=1e-4")]
Data = Annotated[
    str, typer.Option("--data", help="A folder of audio, a manifest (tsv, csv, JSON lines, Lhotse cuts), or 'demo'.")
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the student and the run. After a stop, repeat the command to resume.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Number of updates in all; the stages are scaled to it.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed; the recipe's by default.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; 'auto' takes a GPU if there is one.")]
AllowCommands = Annotated[
    bool,
    typer.Option(
        "--allow-commands",
        help="Run the commands and fetch the URLs that a Lhotse manifest names; without it, such rows are skipped.",
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="'recipe': keep the recipe's schedule, even if it passes over the data very often."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Fresh = Annotated[bool, typer.Option("--fresh/--resume", help="Start over, or resume the run in --out (default).")]


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
    """The override of a recipe for ``--allow-commands``."""
    return ["data.allow_commands=true"] if allow_commands else []


def print_json(result: Any) -> None:
    """Prints a verb's result as JSON."""
    typer.echo(json.dumps(result, indent=1))


def wants_long(schedule: str | None) -> bool:
    """Whether ``--schedule recipe`` was given. ValueError for another schedule."""
    if schedule not in (None, "recipe"):
        raise ValueError(f"--schedule is 'recipe' or left out, not '{schedule}'; --steps N scales the schedule")
    return schedule == "recipe"


def hush(quiet: bool) -> None:
    """Hides notes, if asked to."""
    if quiet:
        warnings.simplefilter("ignore", PlainWarning)


def hush_training(quiet: bool) -> None:
    """Hides notes and the progress of training, if asked to."""
    hush(quiet)
    if quiet:
        from sottovoce.train.track import console

        console.quiet = True


def say(text: str) -> None:
    """Prints a line in the first process only."""
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several
        typer.echo(text)


def _fail(text: str, status: int) -> NoReturn:
    """Prints one line that says why, and ends the process with `status`."""
    print(f"sottovoce: {text}", file=sys.stderr)
    sys.exit(status)


def _show_warning(other: Callable[..., None]) -> Callable[..., None]:
    """Prints a `PlainWarning` as one plain line, and other warnings by `other`."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, PlainWarning):
            print(f"sottovoce: note: {message}", file=sys.stderr)
        else:
            other(message, category, *where, **options)

    return show


def _without_resources(other: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for errors while objects are deleted, such as the workers of a loader: lack of memory there adds no trace to the one line that
    the command ends with."""

    def hook(problem: Any) -> None:
        if problem.exc_value is None or not _resources(problem.exc_value):
            other(problem)

    return hook


MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "annot allocate memory", "bad_alloc", "can't start new thread",
    "killed by signal: Killed", "could not create a primitive", "could not create a memory", "failed to map segment",
)  # fmt: skip
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read timeout")


def _resources(problem: BaseException) -> str:
    """The message for a full disk, too little memory or a lost process; "" for other errors."""
    text = str(problem)
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({os.fsdecode(problem.filename)})" if problem.filename else ""
        return f"the disk is full{where}; free some space and run the command again"
    # a library may raise an error of its own from a lack of memory
    if any(isinstance(each, MemoryError) for each in (problem, problem.__cause__, problem.__context__)) or (
        isinstance(problem, (RuntimeError, OSError, ImportError)) and any(sign in text for sign in MEMORY)
    ):
        return (
            "there is not enough memory. Use a smaller data.seconds_per_batch (raise stages.*.accumulate to keep the updates the same), "
            "precision=bf16, or fewer data.workers, and run the command again"
        )
    if isinstance(problem, RuntimeError) and int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in text for sign in LOST):
        return (
            f"process {os.environ.get('RANK', '?')} lost its connection to another process of this run. That process has ended; its own "
            "message says why. Run the command again to resume from the last checkpoint"
        )
    return ""


def guarded(call: Callable[[], Any]) -> None:
    """Runs `call` and turns errors into one line. Exit status: 2 for a user's mistake, 1 for a missed budget, a full disk or too little
    memory, 143 after SIGTERM.

    With SOTTOVOCE_TRACE=1, the traceback is shown instead.
    """
    warnings.showwarning = _show_warning(warnings.showwarning)
    sys.unraisablehook = _without_resources(sys.unraisablehook)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be valid text
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
            raise  # a fault of ours: shows its traceback
        _fail(str(problem), status)
