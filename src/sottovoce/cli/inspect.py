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
    from sottovoce.reporting import inspect as inspection

    shape = inspection.inspect(model)
    if as_json:
        print_json(shape)
    else:
        inspection.show(shape)
