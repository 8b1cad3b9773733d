"""`sottovoce list`: what there is to choose from. The file is not called `list`, because that is a builtin."""

from __future__ import annotations

import enum
import shutil
import sys
import textwrap
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Quiet, app, print_json


class Kind(enum.StrEnum):
    """What can be listed."""

    teachers = "teachers"
    teacher_kinds = "teacher-kinds"
    recipes = "recipes"
    objectives = "objectives"
    students = "students"
    tasks = "tasks"
    stages = "stages"
    corpora = "corpora"
    units = "units"
    importances = "importances"
    degradations = "degradations"


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; the kinds by default.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List what there is to choose from, each with a sentence.

    Examples:

        sottovoce list

        sottovoce list recipes
    """
    from sottovoce.reporting import listing

    entries = listing.entries("" if kind is None else kind.value)
    if as_json:
        print_json(dict(entries))
    if as_json or quiet:
        return
    column = max(len(name) for name, _ in entries) + 2
    for name, summary in entries:
        typer.echo(_line(name, summary, column))
    if kind is None:
        typer.echo("\nlist one of them, e.g.:  sottovoce list recipes")


def _line(name: str, summary: str, column: int) -> str:
    """A name and its summary. On a terminal, a long summary goes on below its own beginning; elsewhere each entry is one line."""
    if not sys.stdout.isatty():
        return f"{name:<{column}}{summary}"
    width = max(column + 30, shutil.get_terminal_size().columns)
    return textwrap.fill(summary, width, initial_indent=f"{name:<{column}}", subsequent_indent=" " * column)
