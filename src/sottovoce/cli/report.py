"""`sottovoce report`: runs and results as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import app, say


@app.command()
def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Run folders, and folders or files of the ledger.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page; report.html in the first path by default. With .md or .csv: the leaderboard as text."
        ),
    ] = None,
) -> None:
    """Draw runs and results as one page that needs nothing else.

    Examples:

        sottovoce report students/first

        sottovoce report results students/first students/second --out comparison.html

        sottovoce report results/testbed --out table.md
    """
    from sottovoce.reporting import page

    written = page.report(paths or [Path("results")], out)
    say(f"page written to {written}")
