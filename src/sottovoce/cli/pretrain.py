"""`sottovoce pretrain`: an encoder by self-supervision."""

from __future__ import annotations

from typing import Annotated

import typer

from sottovoce.cli.base import AllowCommands, Data, Device, Fresh, Out, Overrides, Seed, Steps, allowing, app, say


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    teacher: Annotated[str, typer.Option("--teacher", help="An earlier iteration whose layers are clustered into targets.")] = "",
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    fresh: Fresh = False,
    allow_commands: AllowCommands = False,
) -> None:
    """Train an encoder by self-supervision, e.g. a small teacher for experiments.

    Example:

        sottovoce pretrain --recipe pretrain-tiny --data speech.tsv --out teachers/tiny data.where.split=train
    """
    from sottovoce.train import api

    api.pretrain(
        recipe=recipe,
        data=data,
        out=out,
        teacher=teacher,
        steps=steps,
        seed=seed,
        device=device,
        fresh=fresh,
        overrides=[*(overrides or ()), *allowing(allow_commands)],
    )
    say(f"encoder written to {out}")
