"""`sottovoce inspect`: the shape of a model."""

from __future__ import annotations

from sottovoce.cli.base import AsJson, Model, Quiet, app, hush, print_json
from sottovoce.cli.progress import Display


@app.command()
def inspect(
    model: Model,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show a model's shape: the width of each layer, the parameters and multiply-accumulates of each part.

    Examples:

        sottovoce inspect students/first

        sottovoce inspect facebook/hubert-base-ls960 --json
    """
    hush(quiet)
    with Display("inspect", quiet) as display:
        display.show(f"loading {model}")
        from sottovoce.reporting import inspect as inspection

        shape = inspection.inspect(model)
    if as_json:
        print_json(shape)
    elif not quiet:
        inspection.show(shape)
