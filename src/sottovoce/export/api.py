"""`sottovoce.export`: a model as a file that runs without torch, measured through the runtime that will run it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..families import load_pretrained
from ..ledger import dump, write
from ..probing.subject import open_subject, origin_of
from . import audio, check, half, onnx, quantize
from .graph import LAST
from .store import finish, replacing

FORMATS = ("onnx",)
PRECISIONS = ("fp32", "fp16", "int8", "int8-static")
FILE, ABOUT, CHECK = "model.onnx", "model.json", "model.check.json"


def export(
    model: str | Path,
    to: str = "onnx",
    *,
    out: str | Path | None = None,
    precision: str = "fp32",
    layer: str | int = LAST,
    data: str | Path | None = None,
    seconds: float = 60.0,
    parts: Sequence[str] | None = None,
    vs: str | None = None,
    tasks: Sequence[str] = (),
    overrides: Sequence[str] = (),
    max_error: float = 0.05,
    say: Callable[[str], None] = lambda text: None,
    table: bool = False,
) -> Path:
    """Writes ``model.onnx`` into `out` (by default the model's own folder), and what one must know of it beside it: ``model.json`` (inputs,
    outputs, layers, rates) and ``model.check.json`` (how far its output is from the model's, through onnxruntime).

    model: a student, a folder in Hugging Face format, a hub id, ``demo``. layer: "last", "all", or a number as transformers counts hidden
    states. data: audio as `open_source` takes it, on which int8-static is calibrated and the file is checked, up to `seconds` for each; the
    demo speech by default. parts: what int8 is used for, of "layers", "position", "frontend". vs: a teacher with which both are compared.
    tasks: probes that are run through both, with `overrides` of their fields. max_error: of an int8 file, as a share of the variance;
    more is said aloud. table: print the numbers.

    Returns the path of the file. ValueError for anything that cannot be exported, with the way out; OSError when writing fails.
    """
    if to not in FORMATS:
        raise ValueError(f"cannot export to '{to}'; known: {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision '{precision}'; known: {', '.join(PRECISIONS)}")
    if parts is not None and not precision.startswith("int8"):
        raise ValueError(f"parts are quantised with int8 or int8-static only, not with {precision}")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        onnx.library(name)
    folder = _folder(model, out)
    finish(Path(model).expanduser())
    loaded = load_pretrained(model)
    graph = onnx.graph_of(loaded, str(layer))
    known = _audio(data, seconds, precision, say)
    if precision == "int8-static" and not known.calibration:
        raise ValueError(
            "one recording serves the check; static quantisation needs others to be calibrated on: give more with --data"
        )
    probes = check.probes(tasks, known.recordings, overrides)
    teacher = None if vs is None else open_subject(vs)

    say(f"translating {loaded.source} to ONNX")
    made = onnx.translate(graph)
    if precision == "fp16":
        half.halve(made)
    elif precision == "int8":
        made = quantize.quantize_dynamic(made, parts or quantize.DYNAMIC)
    elif precision == "int8-static":
        say(f"measuring ranges on {len(known.calibration)} recordings")
        made = quantize.quantize_static(made, known.calibration, parts or quantize.STATIC)
    facts = onnx.facts(loaded, graph, precision, origin_of(Path(model)))
    onnx.describe(made, facts)
    _write(folder, made, facts)

    say(f"checking it on {len(known.check)} recordings through onnxruntime")
    path = folder / FILE
    checked = check.check(
        path,
        graph,
        known.check,
        teacher=teacher,
        tasks=probes,
        model=lambda: open_subject(str(model), "torch"),
        recordings=known.recordings,
    )
    write(folder / CHECK, checked.record(facts))
    if table:
        check.show(checked, facts)
    if precision.startswith("int8") and checked.error > max_error:
        say(
            f"warning: int8 changes the features by {checked.error:.1%} of their variance, more than {max_error:.1%}; "
            "try --precision int8 or fp16, or fewer parts"
        )
    return path


def _audio(data: str | Path | None, seconds: float, precision: str, say: Callable[[str], None]) -> audio.Heard:
    """Audio from `data`, or the demo speech; without either, noise for what needs no calibration."""
    if data is not None:
        return audio.heard(data, seconds)
    try:
        return audio.heard("demo", seconds)
    except ValueError as problem:
        if precision == "int8-static":
            raise ValueError(f"{precision} is calibrated on real audio; name some with --data ({problem})") from None
        say(f"no speech to check it on, taking noise; name some with --data ({problem})")
        return audio.noise()


def _folder(model: str | Path, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out).expanduser()
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{model} is not a folder here; say with --out where the file is to be written")
    return folder


def _write(folder: Path, model: Any, facts: dict[str, str]) -> None:
    """The file and its description, both or neither."""
    about = {key: _value(text) for key, text in facts.items()} | {
        "inputs": {
            "wave": "float32 (batch, samples), 16 kHz, as recorded",
            "lengths": "int64 (batch,), valid samples of each row",
        },
        "outputs": {
            "hidden_states": "float32 " + ("(batch, layers, frames, dim)" if facts["layer"] == "all" else "(batch, frames, dim)"),
            "frames": "int64 (batch,), valid frames of each row",
        },
        "opset": onnx.OPSET,
    }
    try:
        with replacing(folder) as new:
            onnx.save(model, new / FILE)
            (new / ABOUT).write_text(dump(about), encoding="utf-8")
        (folder / CHECK).unlink(missing_ok=True)  # of the file that was there
    except OSError as problem:
        full = problem.errno == errno.ENOSPC or "No space left" in str(problem)
        if not full:
            raise
        free = shutil.disk_usage(folder).free / 2**20
        need = onnx.size(model) / 2**20
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: the file needs {need:.0f} MiB and {free:.0f} are free; what was in the folder is unchanged",
            os.fspath(folder),
        ) from problem


def _value(text: str) -> Any:
    """Numbers, lists and truth values as such."""
    try:
        return json.loads(text)
    except ValueError:
        return text
