"""`sottovoce compress`: trains a small student of a teacher."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from sottovoce.train.api import Result


class Unit(enum.StrEnum):
    """Units of a budget."""

    params = "params"
    macs = "macs"
    latency = "latency"


@app.command()
def compress(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="A hub id, a folder in Hugging Face format, an earlier student, or 'demo'.")
    ],
    data: Data,
    out: Out,
    overrides: Overrides = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="A shipped recipe (see 'sottovoce list recipes'), a YAML file, or 'auto', which picks one."
        ),
    ] = "dphubert",
    budget: Annotated[Unit | None, typer.Option("--budget", help="What the budget counts; the recipe's by default.")] = None,
    keep: Annotated[float | None, typer.Option("--keep", help="The share to keep, e.g. 0.25; the recipe's by default.")] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Hours of computing that there are, for --recipe auto.")] = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    fresh: Fresh = False,
    schedule: Schedule = None,
    allow_larger: Annotated[
        bool, typer.Option("--allow-larger", help="Allow a student that costs more than its teacher.")
    ] = False,
    allow_commands: AllowCommands = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be trained and what it needs; train nothing. With --json: all details."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small student of TEACHER and write it to --out.

    Examples:

        sottovoce compress demo --recipe dphubert-demo --data demo --steps 300 --out students/first

        sottovoce compress facebook/hubert-base-ls960 --budget macs --keep 0.25 --data /data/librispeech --out students/hubert

        sottovoce compress openai/whisper-base --recipe auto --hours 8 --keep 0.5 --data /data/speech --out students/whisper

        sottovoce compress microsoft/wavlm-base-plus --data speech.jsonl --out students/wavlm stages.prune.accumulate=4

    The student loads by `sottovoce.load(out)` or `transformers.AutoModel.from_pretrained(out, trust_remote_code=True)`.
    """
    from sottovoce.train import api
    from sottovoce.train.checks import Permissions

    if "=" in teacher and not Path(teacher).exists():
        raise ValueError(f"'{teacher}' is no teacher; write: sottovoce compress TEACHER --data DATA --out FOLDER {teacher}")
    hush_training(quiet)
    unit = None if budget is None else budget.value
    if dry_run:
        given = [*(overrides or ()), *allowing(allow_commands)]
        made = api.resolve(
            recipe, given, steps, teacher=teacher, budget=unit, keep=keep, seed=seed,
            hours=hours, data=data, out=None if fresh else out, device=device,
        )  # fmt: skip
        long = wants_long(schedule) or steps is not None or bool(made.chosen.steps)
        plan = api.describe(made, data, out, fresh, Permissions(long, allow_larger))
        if as_json:
            print_json(plan)
        elif not quiet:
            say("\n".join(api.plan_lines(plan)))
        if "refused" in plan:
            raise ValueError(plan["refused"])
        return
    result = api.compress(
        teacher,
        recipe=recipe,
        data=data,
        out=out,
        budget=unit,
        keep=keep,
        hours=hours,
        steps=steps,
        seed=seed,
        device=device,
        fresh=fresh,
        long=wants_long(schedule),
        larger=allow_larger,
        overrides=[*(overrides or ()), *allowing(allow_commands)],
    )
    if as_json:
        print_json({"out": str(out), "met": result.met, "record": result.record, "latency_5s": result.latency})
    elif not quiet:
        _summary(result, teacher, data)
    result.check()


def _summary(result: Result, teacher: str, data: str) -> None:
    """Prints the result, where it is, and what to do next."""
    say(
        "\n".join(
            f"  {line}" for line in [f"student in {result.out}", *result.summary(), f"page in {result.out / 'report.html'}"]
        )
    )
    scores = "scores" in result.record
    what = "FILE... --task quality-score" if scores else f"--vs {teacher} --task fidelity --data {data}"
    say(f"next:  sottovoce evaluate {result.out} {what}")
    say(f"       sottovoce inspect {result.out}")
