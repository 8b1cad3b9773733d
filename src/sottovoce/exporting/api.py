"""`sottovoce.export`: a model as a file that runs without torch, measured through the runtime that will run it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from sottovoce.core.ledger import dump, write
from sottovoce.evaluation.subjects.sources import open_subject, origin_of
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.exporting import audio, check, executorch, onnx
from sottovoce.exporting.graph import LAST, Graph
from sottovoce.exporting.whole_files import export_whole
from sottovoce.hosts.load import load_host
from sottovoce.hub.folder import ABOUT, CHECK, finish, refuse_name, replacing
from sottovoce.hub.pretrained import load_pretrained


class ExportFormat(Protocol):
    """What a module must have to be a format.

    NAME: of the format, for people. RUNTIME: the package that runs the file. FILE: how it is called. PARTS: what int8 can be used for.
    ANY_LENGTH: whether it takes audio of any length, or of one. SCORES: whether it gives the scores of a student's heads, too. MILDER: what
    to try where int8 changes too much.
    """

    NAME: str
    RUNTIME: str
    FILE: str
    PRECISIONS: tuple[str, ...]
    PARTS: tuple[str, ...]
    ANY_LENGTH: bool
    SCORES: bool
    MILDER: str

    def require(self) -> None:
        """ValueError with the command that installs it where a package is missing."""

    def settings(self, graph: Graph, window: float) -> dict[str, str]:
        """Facts that only this format has. ValueError for a window, in seconds, that cannot be."""

    def pieces(self, waves: Sequence[Tensor], facts: Mapping[str, str]) -> list[Tensor]:
        """Recordings as the file takes them."""

    def build(
        self,
        graph: Graph,
        facts: Mapping[str, str],
        *,
        parts: Sequence[str] | None = None,
        calibration: Sequence[Tensor] = (),
        say: Callable[[str], None] = ...,
    ) -> Any:
        """The model, facts inside. ValueError for what the format cannot express."""

    def size(self, model: Any) -> int:
        """Bytes, about."""

    def save(self, model: Any, path: Path) -> None: ...

    def about(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """Inputs and outputs, for people."""

    def opened(self, path: Path) -> Subject:
        """The file as a subject, run by `RUNTIME`."""


FORMATS: dict[str, ExportFormat] = {"onnx": onnx, "executorch": executorch}
FILE = onnx.FILE
WINDOW = 2.0  # seconds


def export(
    model: str | Path,
    to: str = "onnx",
    *,
    out: str | Path | None = None,
    precision: str = "fp32",
    layer: str | int | None = None,
    space: str = "student",
    window: float | None = None,
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
    """Writes ``model.onnx`` or ``model.pte`` into `out` (by default the model's own folder), and what one must know of it beside it:
    ``model.json`` (inputs, outputs, layers, rates) and ``model.check.json`` (how far its output is from the model's, through the runtime
    that will run it).

    model: a student, a folder in Hugging Face format, a hub id, ``demo``. to: "onnx", or "executorch", which takes `window` seconds of
    audio at a time (2 by default) and runs no `tasks`. layer: "last", "all", or a number as transformers counts hidden states. ``None``:
    the last; but of a model that writes text, for ONNX and without `vs`, `tasks` and `parts`, decoder or head as well
    (`whole_files.export_whole`). space: "teacher" puts out a student's layers in its teacher's space, for programs that expect the teacher.
    data: audio as `open_source` takes it, on which int8-static is calibrated and the file is checked, up to
    `seconds` for each; the demo speech by default. parts: what int8 is used for, of "layers", "position", "frontend". vs: a teacher with
    which both are compared. tasks: probes that are run through both, with `overrides` of their fields. max_error: of a file in another
    precision than fp32, as a share of the variance; more is said aloud. table: print the numbers.

    Returns the path of the file. ValueError for anything that cannot be exported, with the way out; OSError when writing fails.
    """
    if to not in FORMATS:
        raise ValueError(f"cannot export to '{to}'; known: {', '.join(FORMATS)}")
    form = FORMATS[to]
    if precision not in form.PRECISIONS:
        raise ValueError(f"there is no precision '{precision}' for {form.NAME}; known: {', '.join(form.PRECISIONS)}")
    if parts is not None and not precision.startswith("int8"):
        raise ValueError(f"parts are quantised with int8 or int8-static only, not with {precision}")
    if unknown := [name for name in parts or () if name not in form.PARTS]:
        raise ValueError(f"there is no part '{unknown[0]}' to quantise for {form.NAME}; parts: {', '.join(form.PARTS)}")
    if window is not None and form.ANY_LENGTH:
        raise ValueError(f"a file for {form.NAME} takes audio of any length; leave out --window")
    if tasks and not form.ANY_LENGTH:
        raise ValueError(
            f"tasks need audio of any length, and a file for {form.NAME} takes one length; leave out --task, or export to ONNX"
        )
    if tasks and space == "teacher":
        raise ValueError("tasks measure a student's own layers; leave out --task, or --space teacher")
    form.require()
    folder = _folder(model, out)
    refuse_name(folder)
    finish(Path(model).expanduser())
    if layer is None and to == "onnx" and space == "student" and not (vs or tasks or parts):
        host = load_host(model)
        if host is not None and host.text:
            return export_whole(host.eval(), folder, precision, data, seconds, say)
    loaded = load_pretrained(model)
    graph = onnx.graph_of(loaded, LAST if layer is None else str(layer), space, form.SCORES)
    if loaded.scores is not None and not form.SCORES:
        say(f"a file for {form.NAME} gives no scores: {', '.join(loaded.scores)} is left out; a file for ONNX has it")
    facts = onnx.facts(loaded, graph, precision, origin_of(Path(model)))
    facts |= form.settings(graph, WINDOW if window is None else window)
    clips = audio.computable(_audio(data, seconds, precision, say), graph)
    for text in clips.summary():
        say(text)
    if precision == "int8-static" and not clips.calibration:
        raise ValueError(
            "one recording serves the check; static quantisation needs others to be calibrated on: give more with --data"
        )
    probes = check.probes(tasks, clips.recordings, overrides)
    teacher = None if vs is None else open_subject(vs)

    say(f"translating {loaded.source} to {form.NAME}")
    built = form.build(graph, facts, parts=parts, calibration=clips.calibration_waves, say=say)
    with _writing(folder, built, facts, form) as new:
        say(f"checking it on {len(clips.check)} recordings through {form.RUNTIME}")
        comparison = check.compare(
            form.opened(new / form.FILE),
            graph,
            form.pieces(clips.check_waves, facts),
            to=to,
            runtime=form.RUNTIME,
            teacher=teacher,
            tasks=probes,
            model=lambda: open_subject(str(model), "torch"),
            recordings=clips.recordings,
            left_out=clips.left_out,
        )
        if not comparison.finite:
            raise ValueError(
                f"the file for {form.NAME} in {precision} gives values that are not finite where the model's are, so it was not written; "
                f"try {form.MILDER if precision != 'fp32' else 'another format'}"
            )
        write(new / CHECK, comparison.record(facts) | {"recordings": clips.counts()})
    if table:
        check.show(comparison, facts, form.NAME, "padded batches" if form.ANY_LENGTH else "window by window")
    if precision != "fp32" and comparison.error > max_error:
        say(
            f"warning: {precision} changes the features by {comparison.error:.1%} of their variance, more than {max_error:.1%}; "
            f"try {form.MILDER}"
        )
    return folder / form.FILE


def _audio(data: str | Path | None, seconds: float, precision: str, say: Callable[[str], None]) -> audio.ExportAudio:
    """Audio from `data`, or the demo speech; without either, noise for what needs no calibration."""
    if data is not None:
        return audio.read(data, seconds)
    try:
        return audio.read("demo", seconds)
    except ValueError as problem:
        if precision == "int8-static":
            raise ValueError(f"{precision} is calibrated on real audio; name some with --data ({problem})") from None
        say(f"no speech to check it on, taking noise; name some with --data ({problem})")
        return audio.noise()


def _folder(model: str | Path, out: str | Path | None) -> Path:
    folder = Path(model).expanduser()
    if out is not None:
        target = Path(out).expanduser()
        if (target / "config.json").is_file() and not (folder.is_dir() and target.samefile(folder)):
            raise ValueError(f"--out {out} holds another model, whose exported file this would seem to be; choose another --out")
        return target
    if not folder.is_dir():
        raise ValueError(f"{model} is not a folder here; say with --out where the file is to be written")
    return folder


@contextlib.contextmanager
def _writing(folder: Path, model: Any, facts: dict[str, str], form: ExportFormat = onnx) -> Iterator[Path]:
    """Gives a folder with the file and its description in it; when the block ends without an error, they and what the block put
    there replace those in `folder`."""
    about = {key: _value(text) for key, text in facts.items()} | form.about(facts)
    try:
        with replacing(folder) as new:
            form.save(model, new / form.FILE)
            (new / ABOUT).write_text(dump(about), encoding="utf-8", errors="backslashreplace")
            yield new
    except OSError as problem:
        full = problem.errno == errno.ENOSPC or "No space left" in str(problem)
        if not full:
            raise
        free = shutil.disk_usage(folder).free / 2**20
        need = form.size(model) / 2**20
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
