"""`sottovoce inspect`: the shape of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from sottovoce.cli.base import Model, app, print_json


@app.command()
def inspect(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a model's shape: widths per layer, parameters and multiply-accumulates per part.

    Examples:

        sottovoce inspect students/first

        sottovoce inspect facebook/hubert-base-ls960 --json
    """
    from sottovoce.report import inspect as page

    found = page.describe(model)
    if as_json:
        print_json(found)
    else:
        page.show(found)
