"""`sottovoce demo`: compresses the built-in teacher, offline, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Fresh, Quiet, Steps, app, hush_training, print_json


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the student.")] = Path("students/demo"),
    steps: Steps = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compress the built-in teacher to a quarter of its compute on synthesised speech. Works offline, in a few minutes.

    Example:

        sottovoce demo --out students/demo
    """
    from sottovoce.train.demonstration import main as run_demo

    hush_training(quiet)
    models = run_demo(out, steps, fresh, table=not (as_json or quiet))
    if as_json:
        print_json({"out": str(out), "models": models})
