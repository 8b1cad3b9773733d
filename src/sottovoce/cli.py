"""The command line: parses, calls, reports mistakes in one line. Nothing heavy is imported before it must."""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any recipe field, e.g. stages.prune.lr=1e-4")]
Data = Annotated[
    str, typer.Option("--data", help="A folder of audio, a manifest (tsv, csv, JSON lines, Lhotse cuts), or 'demo'.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the result and the run; repeat the command to go on after a stop.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Scale the whole schedule, all stages, to this many updates.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed; the recipe's by default.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...; a GPU is used when there is one.")]
Fresh = Annotated[bool, typer.Option("--fresh/--resume", help="Start over, or go on where the folder's run stands (default).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Unit(enum.StrEnum):
    params = "params"
    macs = "macs"
    latency = "latency"


class Kind(enum.StrEnum):
    teachers = "teachers"
    recipes = "recipes"
    objectives = "objectives"
    students = "students"
    tasks = "tasks"
    corpora = "corpora"


def _version(asked: bool) -> None:
    if asked:
        import sottovoce

        typer.echo(f"sottovoce {sottovoce.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Make large self-supervised speech encoders small.

    Start with:  `sottovoce demo`
    """


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
        open_source(data)  # says now if there is nothing
        made = api.resolve(recipe, overrides or (), steps, teacher=teacher, budget=unit, keep=keep, seed=seed)
        _print(api.describe(made))
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
        overrides=overrides or (),
    )
    result.check()
    _say(f"student written to {out}" + (f": {result.why}" if result.why else ""))


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
        overrides=overrides or (),
    )
    _say(f"encoder written to {out}")


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Students or teachers (and KEY=VALUE), 'log-mel', or 'untrained:MODEL'."),
    ],
    data: Annotated[
        str, typer.Option("--data", help="A task file (.yaml), 'testbed', or for one task a corpus folder or a manifest.")
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Which task, or which of the task file's; repeatable. All by default.")
    ] = None,
    vs: Annotated[
        list[str] | None, typer.Option("--vs", help="Measured beside them; the first is the teacher. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Ledger folder: one JSON per model and task.")] = Path("results"),
    root: Annotated[
        Path | None, typer.Option("--root", help="What the task file's paths start from; its folder by default.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of heads and batches; repeatable. Default 1 2 3.")
    ] = None,
    device: Device = "auto",
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder for features; by default in $SOTTOVOCE_CACHE.")] = None,
    cache_gb: Annotated[float, typer.Option("--cache-gb", help="Most that features may take on disk; 0 keeps nothing.")] = 10.0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="So many tasks at a time, each on one core.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is measured already.")] = False,
) -> None:
    """Measure what MODEL still does: SUPERB's tasks with a frozen encoder, and label-free fidelity to a teacher.

    Examples:

        sottovoce evaluate students/first --vs demo --task fidelity --data /data/speech

        sottovoce evaluate students/first --vs demo --vs log-mel --task ks --data /data/speech_commands_v0.01

        sottovoce evaluate students/first --vs demo --data testbed --root /data/testbed --out results

    Each pair of model and task becomes one JSON, which `sottovoce report` draws. A pair that fails does not end the others. KEY=VALUE
    overrides any field of the task file, or of the single task, e.g. training.lrs=[1e-3,3e-3].
    """
    from sottovoce.suite.run import evaluate as run

    overrides = [text for text in models if "=" in text and not Path(text).exists()]
    run(
        [text for text in models if text not in overrides],
        data=data,
        tasks=task or ["all"],
        vs=vs or [],
        out=out,
        root=root,
        seeds=seed,
        device=device,
        cache=cache,
        cache_gb=cache_gb,
        jobs=jobs,
        fresh=fresh,
        overrides=overrides,
        say=_say,
    )
    _say(f"results in {out}; to see them: sottovoce report {out}")


@app.command()
def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Run folders, and folders or files of the ledger.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The page; report.html in the first path by default.")] = None,
) -> None:
    """Draw runs and results as one page that needs nothing else.

    Examples:

        sottovoce report students/first

        sottovoce report results students/first students/second --out comparison.html
    """
    from sottovoce.report import page

    written = page.write(paths or [Path("results")], out)
    _say(f"page written to {written}")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A student, or any teacher: folder, hub id, 'demo'.")],
    as_json: Json = False,
) -> None:
    """Show a model's shape: widths per layer, parameters and multiply-accumulates per part.

    Examples:

        sottovoce inspect students/first

        sottovoce inspect facebook/hubert-base-ls960 --json
    """
    from sottovoce.report import inspect as page

    found = page.describe(model)
    if as_json:
        _print(found)
    else:
        page.show(found)


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Students or teachers: folders, hub ids, 'demo'.")
    ] = None,
    vs: Annotated[str | None, typer.Option("--vs", help="What they are compared with; the first model by default.")] = None,
    seconds: Annotated[
        list[float] | None, typer.Option("--seconds", help="Length of the clips; repeatable. Default 1 2 5 10 30.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="Clips at a time; repeatable. Default 1 8.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each runtime; torch's own by default.")
    ] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtimes",
            help="torch, fast (prepared for a CPU), compile, onnx, transformers (its own class); repeatable. Default torch.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often everything has its turn.")] = 6,
    fit_cost: Annotated[
        bool, typer.Option("--fit-cost", help="Instead: time single parts and fit the costs that a budget in latency needs.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The record; bench.json by default, latency.json with --fit-cost.")
    ] = None,
) -> None:
    """Measure how fast models are on this machine's CPU: latency, throughput and memory, in turns, each beside the others.

    Examples:

        sottovoce bench students/first --vs demo

        sottovoce bench students/first --vs demo --seconds 10 --batch 1 --threads 2 --runtimes torch --runtimes onnx

        sottovoce bench --fit-cost --threads 2 --out latency.json

    Costs fitted here make `sottovoce compress ... --budget latency pruning.budget.machine=latency.json` count milliseconds of this machine.
    """
    from sottovoce import ledger
    from sottovoce.bench import measure, table

    if fit_cost:
        from sottovoce.bench import fit

        if models or vs or batch or runtimes or len(seconds or ()) > 1:
            raise ValueError("--fit-cost times parts, not models: it takes --threads, --rounds, one --seconds and --out only")
        out = out or Path("latency.json")
        record = fit.fit((seconds or [10.0])[0], threads=threads, rounds=rounds, say=_say)
        ledger.write(out, record)
        fit.show(record)
        _say(f"costs written to {out}; to count them: --budget latency pruning.budget.machine={out}")
        return
    record = measure.bench(
        models or [],
        vs=vs,
        runtimes=runtimes or ["torch"],
        seconds=seconds or measure.SECONDS,
        batches=batch or measure.BATCHES,
        rounds=rounds,
        threads=threads,
        say=_say,
    )
    out = out or Path("bench.json")
    ledger.write(out, record)
    table.show(record)
    _say(f"written to {out}")


class Format(enum.StrEnum):
    onnx = "onnx"
    executorch = "executorch"


class Precision(enum.StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    int8_static = "int8-static"


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A student, or any teacher: folder, hub id, 'demo'.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of --task, e.g. training.steps=500")
    ] = None,
    to: Annotated[Format, typer.Option("--to", help="The format.")] = Format.onnx,
    precision: Annotated[
        Precision, typer.Option("--precision", help="int8 rounds activations while running, int8-static by ranges on --data.")
    ] = Precision.fp32,
    layer: Annotated[
        str, typer.Option("--layer", help="Which hidden state: last, all, or a number as transformers counts them.")
    ] = "last",
    window: Annotated[
        float | None, typer.Option("--window", help="Seconds that a file for ExecuTorch takes at a time; 2 by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for model.onnx or model.pte; the model's own by default.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Audio to calibrate and check on; demo speech by default.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="So much audio for each of the two.")] = 60.0,
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="What int8 is used for: layers, position, frontend; repeatable.")
    ] = None,
    vs: Annotated[str | None, typer.Option("--vs", help="A teacher: the fidelity of model and file to it is compared.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A probe to run through model and file, on --data; repeatable.")
    ] = None,
    max_error: Annotated[
        float, typer.Option("--max-error", help="Warn when int8 changes more than this share of the features' variance.")
    ] = 0.05,
) -> None:
    """Write MODEL as a file that runs without torch, and measure it through the runtime that will run it.

    Examples:

        sottovoce export students/first --to onnx

        sottovoce export students/first --to onnx --precision int8 --layer all --out exported/first-int8

        sottovoce export students/first --to onnx --precision int8-static --data /data/speech --vs demo --out exported/first-static

        sottovoce export students/first --to executorch --window 2 --precision int8 --out exported/first-phone

    An ONNX file takes raw 16 kHz audio (batch, samples) and lengths (batch,); a file for ExecuTorch (fp32 or int8) one wave of --window
    seconds. Next to it: model.json says what is in it, model.check.json how close it is to MODEL. An ONNX file can be evaluated like any
    model: `sottovoce evaluate exported/first-int8/model.onnx ...`
    """
    from sottovoce.export import api

    path = api.export(
        model,
        to.value,
        out=out,
        precision=precision.value,
        layer=layer,
        window=window,
        data=data,
        seconds=seconds,
        parts=parts,
        vs=vs,
        tasks=task or (),
        overrides=overrides or (),
        max_error=max_error,
        say=_say,
        table=True,
    )
    _say(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what there is to choose from.

    Examples:

        sottovoce list recipes

        sottovoce list objectives
    """
    from sottovoce.report import listing

    for name, summary in listing.entries(kind.value):
        typer.echo(f"{name:<22} {summary}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the student.")] = Path("students/demo"),
    steps: Steps = None,
    fresh: Fresh = False,
) -> None:
    """Compress the built-in teacher to a quarter of its compute on synthesised speech: offline, a few minutes, then a table.

    Example:

        sottovoce demo --out students/demo
    """
    from sottovoce.demo import main as run_demo

    run_demo(out, steps, fresh)


def _print(found: Any) -> None:
    typer.echo(json.dumps(found, indent=1))


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # torchrun starts many of us
        typer.echo(text)


def _fail(text: str, status: int) -> NoReturn:
    print(f"sottovoce: {text}", file=sys.stderr)
    sys.exit(status)


def guarded(call: Callable[[], Any]) -> None:
    """Runs `call`; a user's mistake is one plain message and status 2, a stop on request 143, a missed budget or a full disk 1.

    SOTTOVOCE_TRACE=1 shows the trace of those, too.
    """
    try:
        call()
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Exception as problem:
        status = getattr(
            problem, "exit_status", 2 if isinstance(problem, ValueError) else 1 if isinstance(problem, OSError) else None
        )
        if os.environ.get("SOTTOVOCE_TRACE") or status is None:
            raise  # what says no way out is a fault of ours and shows its trace
        _fail(str(problem), status)


def main() -> None:
    """The `sottovoce` command."""
    guarded(app)


if __name__ == "__main__":
    main()
