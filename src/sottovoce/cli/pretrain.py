"""`sottovoce pretrain`: trains an encoder by self-supervision."""

from __future__ import annotations

from typing import Annotated

import typer

from sottovoce.cli.base import (
    AllowCommands,
    AsJson,
    Data,
    Device,
    Fresh,
    Out,
    Overrides,
    Quiet,
    Schedule,
    Seed,
    Steps,
    allowing,
    app,
    hush_training,
    print_json,
    say,
    wants_long,
)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe or a YAML file.")],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    teacher: Annotated[
        str, typer.Option("--teacher", help="An earlier iteration, whose layers are clustered into targets.")
    ] = "",
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    fresh: Fresh = False,
    schedule: Schedule = None,
    allow_commands: AllowCommands = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train an encoder by self-supervision, e.g. a small teacher for experiments.

    Example:

        sottovoce pretrain --recipe pretrain-tiny --data speech.tsv --out teachers/tiny data.where.split=train
    """
    from sottovoce.train import api

    hush_training(quiet)
    result = api.pretrain(
        recipe=recipe,
        data=data,
        out=out,
        teacher=teacher,
        steps=steps,
        seed=seed,
        device=device,
        fresh=fresh,
        long=wants_long(schedule),
        overrides=[*(overrides or ()), *allowing(allow_commands)],
    )
    if as_json:
        print_json({"out": str(out), "record": result.record, "latency_5s": result.latency})
    elif not quiet:
        say("\n".join(f"  {line}" for line in [f"encoder in {out}", *result.summary(), f"page in {out / 'report.html'}"]))
        scores = "scores" in result.record
        say(
            f"next:  sottovoce evaluate {out} "
            + ("FILE... --task quality-score" if scores else "--vs log-mel --task ks --data DATA")
        )
