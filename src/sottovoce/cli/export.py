"""`sottovoce export`: a model as a file that runs without torch."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import AsJson, Model, Quiet, app, hush, print_json, say
from sottovoce.cli.progress import Display


class FormatName(enum.StrEnum):
    """Kinds of files."""

    onnx = "onnx"
    executorch = "executorch"


class Precision(enum.StrEnum):
    """The arithmetic of the file."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    int8_static = "int8-static"


class FeatureSpace(enum.StrEnum):
    """Of the hidden states."""

    student = "student"
    teacher = "teacher"


@app.command()
def export(
    model: Model,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of the tasks of --task, e.g. training.steps=500")
    ] = None,
    to: Annotated[FormatName, typer.Option("--to", help="The format.")] = FormatName.onnx,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision", help="int8 measures the ranges of activations at run time, int8-static beforehand on --data."
        ),
    ] = Precision.fp32,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            help="The hidden state to put out: last, all, or a number as transformers counts them. By default the last; of a model "
            "that writes text, its decoder or head as well.",
        ),
    ] = None,
    space: Annotated[
        FeatureSpace,
        typer.Option(
            "--space",
            help="Whose: the student's own layers, or these in its teacher's space, for programs that expect the teacher.",
        ),
    ] = FeatureSpace.student,
    window: Annotated[
        float | None, typer.Option("--window", help="ExecuTorch only: seconds of audio in one call; 2 by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for model.onnx or model.pte; the model's own by default.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Audio to calibrate and check on; demo speech by default.")] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="Seconds of audio for the calibration, and for the check.")
    ] = 60.0,
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="int8 only: parts to quantise (layers, position, frontend); repeatable.")
    ] = None,
    vs: Annotated[str | None, typer.Option("--vs", help="A teacher: compare the fidelity of model and file to it.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task: compare the scores of model and file on --data; repeatable.")
    ] = None,
    max_error: Annotated[
        float, typer.Option("--max-error", help="Warn when int8 changes more than this share of the features' variance.")
    ] = 0.05,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write MODEL as a file that runs without torch, and check the file against MODEL.

    Examples:

        sottovoce export students/first --to onnx

        sottovoce export students/first --to onnx --precision int8 --layer all --out exported/first-int8

        sottovoce export students/first --to onnx --precision int8-static --data /data/speech --vs demo --out exported/first-static

        sottovoce export students/first --space teacher --layer 9 --out exported/first-9

        sottovoce export openai/whisper-base --precision int8 --data /data/speech.tsv --out exported/whisper

        sottovoce export students/first --to executorch --window 2 --precision int8 --out exported/first-phone

    An ONNX file takes raw 16 kHz audio (batch, samples) and lengths (batch,). An ExecuTorch file (fp32 or int8) takes one wave of --window
    seconds. model.json describes the file; model.check.json holds its differences from MODEL. An ONNX file can be evaluated like any model:
    `sottovoce evaluate exported/first-int8/model.onnx ...`
    """
    import json

    hush(quiet)
    with Display("export", quiet) as display:
        display.show(f"loading {model}")
        from sottovoce.exporting import api
        from sottovoce.exporting.whole import DECODER, ENCODER
        from sottovoce.hub.folder import CHECK

        path = api.export(
            model,
            to.value,
            out=out,
            precision=precision.value,
            layer=layer,
            space=space.value,
            window=window,
            data=data,
            seconds=seconds,
            parts=parts,
            vs=vs,
            tasks=task or (),
            overrides=overrides or (),
            max_error=max_error,
            say=display.say(as_json),
            table=not (as_json or quiet),
        )
    written = [path, *([path.with_name(DECODER)] if path.name == ENCODER else [])]
    size = sum(file.stat().st_size for file in written if file.exists())
    if as_json:
        check = json.loads((path.parent / CHECK).read_text(encoding="utf-8"))
        print_json({"file": str(path), "bytes": size, "check": check})
    elif not quiet:
        say(f"written to {path} ({size / 1e6:.1f} MB)")
