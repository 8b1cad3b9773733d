"""`sottovoce export`: a model as a file that runs without torch."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from sottovoce.cli.base import Model, app, say


class FormatName(enum.StrEnum):
    """What kind of file is written."""

    onnx = "onnx"
    executorch = "executorch"


class Precision(enum.StrEnum):
    """What numbers the file computes with."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    int8_static = "int8-static"


@app.command()
def export(
    model: Model,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of --task, e.g. training.steps=500")
    ] = None,
    to: Annotated[FormatName, typer.Option("--to", help="The format.")] = FormatName.onnx,
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
    from sottovoce.exporting import api

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
        say=say,
        table=True,
    )
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
