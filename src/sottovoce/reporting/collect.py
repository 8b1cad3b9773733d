"""What lies in run folders and in the ledger, read for a page. Nothing here fails on a broken file: it is left out, with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sottovoce.core import ledger
from sottovoce.core.registry import TASKS
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import full_widths
from sottovoce.reporting.check import number, problems

MARK, RUN, EVALUATION = ".sottovoce", "run", "evaluation"


@dataclass(frozen=True)
class ReportedRun:
    """A run's folder, or its record alone when it comes from the ledger.

    name: the folder's. key: tells it from all others. file: where the record lies, as shown. record: empty while the run is not
    finished. recipe: the text of ``run/recipe.yaml``. rows: of ``run/metrics.jsonl``. before, after: shape of the encoder before the
    cut and of the student, where they are known. kept: per group, which of the units of `before` are
    left. models: the table of ``sottovoce demo``.
    """

    name: str
    key: str
    file: str
    record: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    before: EncoderConfig | None = None
    after: EncoderConfig | None = None
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return bool(self.record)

    @property
    def began(self) -> bool:
        """Whether the run has trained at all: it is finished, or its journal has a row."""
        return self.finished or bool(self.rows)


@dataclass(frozen=True)
class Evaluation:
    """One model on one task. run: the key of the run in whose folder it lies, or empty."""

    record: Mapping[str, Any]
    file: str
    run: str = ""


@dataclass(frozen=True)
class Bench:
    """A comparison of speed."""

    record: Mapping[str, Any]
    file: str


@dataclass(frozen=True)
class Other:
    """A measurement that is listed and not drawn."""

    kind: str
    date: str
    commit: str
    file: str


@dataclass(frozen=True)
class LeftOut:
    file: str
    reason: str


@dataclass
class Gathered:
    """Everything under the given paths, in the order of their names."""

    runs: list[ReportedRun] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def gather(paths: Sequence[Path]) -> Gathered:
    """Reads run folders, folders that hold runs or results, and single results. ValueError when there are none, or not that path."""
    found, seen = Gathered(), set[Path]()
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}; give the folder of a run, or a folder or file of results")
        for kind, at in [("file", path)] if path.is_file() else _walk(path):
            if at.resolve() in seen:
                continue
            seen.add(at.resolve())
            shown = _shown(at, path)
            if kind == "run":
                _run_folder(at, shown, found)
            else:
                _file(at, shown, found)
    if not (found.runs or found.evaluations or found.benches or found.others):
        first = f" ({found.left_out[0].file}: {found.left_out[0].reason})" if found.left_out else ""
        given = ", ".join(map(str, paths))
        raise ValueError(f"{given} holds neither a run nor a result; give a run's folder, or a folder or file of results{first}")
    _newest_only(found)
    return found


def is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, finished or not."""
    return any((folder / RUN / name).is_file() for name in (MARK, "result.json", "metrics.jsonl"))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Runs, and JSON and ``records.jsonl`` files outside of them, in the order of their names."""
    if is_run(root):
        yield "run", root
        return
    for at, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".json") or name == ledger.RECORDS:
                yield "file", Path(at) / name
        for name in [name for name in folders if is_run(Path(at) / name)]:
            folders.remove(name)
            yield "run", Path(at) / name


def _shown(path: Path, root: Path) -> str:
    """The path from the last part of what was asked for on: pages are shared, folders are private."""
    name = root.resolve().name
    return name if path == root else f"{name}/{path.relative_to(root).as_posix()}"


def _run_folder(folder: Path, shown: str, found: Gathered) -> None:
    inside = folder / RUN
    record = _read(inside / "result.json")
    reasons = [] if record is None else problems(record)
    if record is not None and (reasons or record.get("kind") != "run"):
        found.left_out.append(LeftOut(f"{shown}/run/result.json", "; ".join(reasons) or "is not the record of a run"))
        record = None
    record = record or {}
    stages = [stage for stage in record.get("stages", []) if stage.get("kind") in ("cut", "prune_once")]
    cut = _object(_read(inside / f"{stages[0]['stage']}.json")) if stages else {}
    demo = _object(_read(inside / "demo.json"))
    key = str(folder.resolve())
    found.runs.append(
        ReportedRun(
            name=folder.resolve().name,
            key=key,
            file=f"{shown}/run/result.json",
            record=record,
            recipe=_text(inside / "recipe.yaml"),
            rows=_journal(inside / "metrics.jsonl"),
            before=_before(inside, record),
            after=_shape(_object(_read(folder / "config.json")).get("encoder")),
            kept={key: units for key, units in _object(cut.get("kept")).items() if _list_of_numbers(units)},
            models={key: row for key, row in _object(demo.get("models")).items() if isinstance(row, dict)},
        )
    )
    for file in sorted(file for name in ("*.json", ledger.RECORDS) for file in (folder / EVALUATION).glob(f"**/{name}")):
        _file(file, f"{shown}/{file.relative_to(folder).as_posix()}", found, run=key)


def _file(file: Path, shown: str, found: Gathered, run: str = "") -> None:
    """A JSON file with one record, or a ``.jsonl`` file with one in each line."""
    try:
        if file.suffix != ".jsonl":
            _record(file.read_text(encoding="utf-8"), shown, str(file.resolve()), found, run)
            return
        for place, line in ledger.lines(file):
            _record(line, f"{shown}:{place}", f"{file.resolve()}:{place}", found, run)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "is not JSON"
        found.left_out.append(LeftOut(shown, reason or "cannot be read"))


def _record(text: str, shown: str, key: str, found: Gathered, run: str) -> None:
    """A record as JSON. shown: its file, and its line where the file has several. key: the same in full."""
    try:
        record = _parse(text)
    except (ValueError, RecursionError):
        found.left_out.append(LeftOut(shown, "is not JSON"))
        return
    reasons = problems(record)
    if reasons:
        more = f", and {len(reasons) - 2} more faults" if len(reasons) > 2 else ""
        found.left_out.append(LeftOut(shown, "; ".join(reasons[:2]) + more))
    elif record.get("kind") == "evaluation":
        found.evaluations.append(Evaluation(record, shown, run))
    elif record.get("kind") == "run":
        found.runs.append(ReportedRun(name=str(record.get("name") or Path(shown).stem), key=key, file=shown, record=record))
    elif record.get("kind") == "bench":
        found.benches.append(Bench(record, shown))
    else:
        found.others.append(
            Other(str(record.get("kind") or Path(shown).stem), record.get("date") or "", record.get("commit") or "", shown)
        )


def _newest_only(found: Gathered) -> None:
    """One evaluation per model and question: a copy is dropped, an older measurement is left out and said to be.

    Within a ``records.jsonl`` a later line replaces an earlier one of the same model name, task entry and seeds (``evaluate --fresh``).
    """
    newest: dict[str, Evaluation] = {}
    latest: dict[str, Evaluation] = {}
    for one in found.evaluations:
        file, _, line = one.file.rpartition(":")
        same = [file, one.record["model"]["name"], one.record["task"]["entry"], one.record.get("seeds")] if file else [line]
        if before := latest.get(key := json.dumps(same)):
            found.left_out.append(LeftOut(before.file, f"measured again in {one.file}"))
        latest[key] = one
    for one in latest.values():
        record = one.record
        key = json.dumps([record["model"]["role"], record["model"]["fingerprint"], *question(record)])
        known = newest.get(key)
        if known is None:
            newest[key] = one
            continue
        kept, dropped = (one, known) if record["date"] > known.record["date"] else (known, one)
        newest[key] = replace(kept, run=kept.run or dropped.run)
        if kept.record != dropped.record:
            found.left_out.append(LeftOut(dropped.file, f"measured again in {kept.file}"))
    found.evaluations = list(newest.values())


def question(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """What decides whether two evaluations may stand in one column: the entry, the data, the settings of the task, and its version."""
    task = record["task"]
    return task["entry"], record["data"]["fingerprint"], json.dumps(task["config"], sort_keys=True), scored_by(record)


def scored_by(record: Mapping[str, Any]) -> int:
    """The version of its task by which an evaluation counts; the one it names where the task is not installed."""
    task, version = record["task"], ledger.task_version(record)
    return TASKS.get(task["name"]).version_of(version, task["config"]) if task["name"] in TASKS.names() else version


def _before(inside: Path, record: Mapping[str, Any]) -> EncoderConfig | None:
    """The shape before the cut, from the header of what the stage before it wrote."""
    stages = [(stage["stage"], stage.get("kind")) for stage in record.get("stages", [])]
    for name, kind in stages:
        if kind == "prune_once":  # says it itself: there may be no stage before
            return _shape(_object(_read(inside / f"{name}.json")).get("shape"))
    for (name, _), (_, kind) in pairwise(stages):
        if kind == "cut":
            try:
                with safe_open(inside / f"{name}.safetensors", "numpy") as file:
                    about = file.metadata() or {}
                    return _shape(_parse(about.get("whole", about.get("encoder", "null"))))
            except (OSError, ValueError, SafetensorError):
                return None  # thrown away to save space, or half copied
    return None


def _shape(found: Any) -> EncoderConfig | None:
    """The shape that `EncoderConfig.to_dict` described; ``None`` for anything else."""
    try:
        config = EncoderConfig.from_dict(_object(found))
        sizes = full_widths(config).values()
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return config if all(isinstance(size, int) and size >= 0 for size in sizes) else None


def _journal(path: Path) -> list[dict[str, Any]]:
    """Rows with a stage and a step; lines cut off by a kill are passed over, and so are values that are not finite."""
    rows = []
    for line in _text(path).splitlines():
        try:
            row = _parse(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("stage"), str) and number(row.get("step")):
            values = {key: value for key, value in row.items() if key not in ("stage", "step") and number(value)}
            rows.append({"stage": row["stage"], "step": row["step"], **values})
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read(path: Path) -> Any:
    """The JSON at `path`, or ``None``."""
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _parse(text: str) -> Any:
    """JSON; NaN and Infinity, which Python writes and JSON does not know, become ``None``."""
    return json.loads(text, parse_constant=lambda _: None)


def _list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(number(item) for item in value)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
