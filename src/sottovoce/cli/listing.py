"""`sottovoce list`: what there is to choose from. The file is not called `list`, which the builtin is."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from sottovoce.cli.base import app


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


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what there is to choose from. teachers: models that can be TEACHER, by family; teacher-kinds: ways to learn from one.

    Examples:

        sottovoce list recipes

        sottovoce list objectives
    """
    from sottovoce.reporting import listing

    for name, summary in listing.entries(kind.value):
        typer.echo(f"{name:<22} {summary}")
