"""`sottovoce compress`: a small student of a teacher."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AllowCommands, Data, Device, Fresh, Out, Overrides, Seed, Steps, allowing, app, print_json, say


class Unit(enum.StrEnum):
    """What a budget counts."""

    params = "params"
    macs = "macs"
    latency = "latency"


@app.command()
def compress(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="Hub id, folder in Hugging Face format, an earlier student, or 'demo'.")
    ],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A shipped recipe (see 'sottovoce list recipes') or a YAML file.")
    ] = "dphubert",
    budget: Annotated[Unit | None, typer.Option("--budget", help="What the budget counts.")] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="The share that stays, e.g. 0.25.")] = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    fresh: Fresh = False,
    allow_commands: AllowCommands = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, the plan and the estimated cost; train nothing.")
    ] = False,
) -> None:
    """Train a small student of TEACHER and write it to --out.

    Examples:

        sottovoce compress demo --recipe dphubert-demo --data demo --steps 300 --out students/first

        sottovoce compress facebook/hubert-base-ls960 --budget macs --keep 0.25 --data /data/librispeech --out students/hubert

        sottovoce compress microsoft/wavlm-base-plus --data speech.jsonl --out students/wavlm stages.prune.accumulate=4

    The student loads by `sottovoce.load(out)` or `transformers.AutoModel.from_pretrained(out, trust_remote_code=True)`.
    """
    from sottovoce.data import open_source
    from sottovoce.train import api

    if "=" in teacher and not Path(teacher).exists():
        raise ValueError(
            f"'{teacher}' stands where the teacher belongs; write: sottovoce compress TEACHER --data ... --out ... key=value"
        )
    unit = None if budget is None else budget.value
    if dry_run:
        open_source(data, allow_commands)  # says now if there is nothing
        made = api.resolve(recipe, overrides or (), steps, teacher=teacher, budget=unit, keep=keep, seed=seed)
        print_json(api.describe(made))
        return
    result = api.compress(
        teacher,
        recipe=recipe,
        data=data,
        out=out,
        budget=unit,
        keep=keep,
        steps=steps,
        seed=seed,
        device=device,
        fresh=fresh,
        overrides=[*(overrides or ()), *allowing(allow_commands)],
    )
    result.check()
    say(f"student written to {out}" + (f": {result.why}" if result.why else ""))
