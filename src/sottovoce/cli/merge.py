"""`sottovoce merge`: joins students that were distilled apart."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Quiet, app, hush, print_json, say
from sottovoce.cli.progress import Display


class Rule(enum.StrEnum):
    """How students are merged."""

    average = "average"
    arithmetic = "arithmetic"
    ties = "ties"


@app.command()
def merge(
    students: Annotated[list[str], typer.Argument(metavar="STUDENT...", help="Folders of at least two students.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged student.")],
    rule: Annotated[Rule, typer.Option("--rule", help="average, arithmetic (task arithmetic) or ties.")] = Rule.average,
    weights: Annotated[
        str, typer.Option("--weights", help="One number per student, e.g. 0.9,0.1; equal by default. Not for ties.")
    ] = "",
    keep: Annotated[float, typer.Option("--keep", help="With ties: the share of each student's changes that stays.")] = 0.3,
    scale: Annotated[float, typer.Option("--scale", help="With ties: multiplies the merged change.")] = 1.0,
    origin: Annotated[
        str, typer.Option("--origin", help="The model that all students started from, where their runs cannot say it.")
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge students of one shape that started from the same weights and learned from different teachers.

    Examples:

        sottovoce merge students/content students/speaker --out students/both

        sottovoce merge students/content students/speaker --rule arithmetic --weights 0.8,0.2 --out students/both

    It is the alternative to a run with several teachers: no further training is needed.
    """
    try:
        numbers = tuple(float(number) for number in weights.split(",")) if weights else ()
    except ValueError:
        raise ValueError(f"--weights is '{weights}'; write numbers with commas between them, e.g. 0.9,0.1") from None
    hush(quiet)
    with Display("merge", quiet) as display:
        display.show("loading students")
        from sottovoce.train.merging import MergeConfig
        from sottovoce.train.merging import merge as merge_students

        merge_students(students, out, MergeConfig(rule.value, numbers, keep, scale), origin)
    if as_json:
        print_json({"out": str(out), "students": students, "rule": rule.value})
    elif not quiet:
        say(f"  {len(students)} students merged into {out}\nnext:  sottovoce inspect {out}")
