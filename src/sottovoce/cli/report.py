"""`sottovoce report`: runs and results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Quiet, app, hush, print_json, say
from sottovoce.cli.progress import Display


@app.command()
def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Run folders, and folders or files of results.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The file; report.html by default (of one run: in its folder). With .md or .csv: the leaderboard as text.",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw runs and results as one HTML page. It needs no other file and no network.

    Examples:

        sottovoce report students/first

        sottovoce report results students/first students/second --out comparison.html

        sottovoce report results/testbed --out table.md
    """
    hush(quiet)
    with Display("report", quiet) as display:
        display.show("reading runs and results")
        from sottovoce.reporting import page

        file = page.report(paths or (), out)
    if as_json:
        print_json({"out": str(file), "bytes": file.stat().st_size})
    elif not quiet:
        say(f"written to {file}")
