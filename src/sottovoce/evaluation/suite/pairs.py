"""One task entry on one model: its request, its earlier records, and its new record."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sottovoce.core import ledger
from sottovoce.core.config import completed, plain
from sottovoce.data import Note, Recordings, Skipped
from sottovoce.data.manifests import RTTM
from sottovoce.evaluation.kinds.task import Task, Workbench
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.config import SuiteEntry

SKIPPED = "skipped.jsonl"

Records = Mapping[tuple[str, str], Sequence[dict[str, Any]]]  # (model, task entry): its records, oldest first


@dataclass(frozen=True)
class TaskResult:
    """One measured pair. path: the file of its record; new: False if the record is of an earlier run."""

    path: Path
    record: dict[str, Any]
    new: bool


@dataclass(frozen=True)
class Pair:
    """A task entry on a model. request: the values that a record of this pair must have. path: the file for its record. audio: see
    `audio_digest`; ``None`` if unknown. limit: the most recordings per split, for a quick look."""

    subject: Subject
    name: str
    entry: SuiteEntry
    request: dict[str, Any]
    path: Path
    audio: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Failure:
    """A pair that could not be measured, and why."""

    pair: Pair
    reason: str

    def line(self) -> str:
        """The failure as text."""
        return f"{self.pair.subject.name}  {self.pair.name}  not measured: {self.reason}"


def pair_of(subject: Subject, name: str, entry: SuiteEntry, data: str, bench: Workbench, out: Path) -> Pair:
    """A pair with its request. data: the `fingerprint` of the entry's data."""
    kind = entry.task.cls
    request = {
        "version": kind.version,
        "model": subject.fingerprint,
        "config": ledger.portable(plain(entry.task.config)),
        "data": data,
        "seeds": list(bench.seeds),
    }
    if kind.compares and bench.reference is not None:
        request["reference"] = bench.reference.fingerprint
    if kind.needs == "host":
        request["host"] = subject.host_fingerprint
    if kind.needs == "scores":
        request["rater"] = subject.rater.fingerprint
        if bench.reference is not None and bench.reference is not subject:
            request["reference"] = bench.reference.rater.fingerprint
    return Pair(subject, name, entry, request, out / ledger.RECORDS)


def records_of(pairs: Sequence[Pair]) -> Records:
    """All earlier records in the folder of `pairs`, also those of older versions in files ``MODEL/TASK.json``."""
    records: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for pair in pairs:
        single = pair.path.parent / slug(pair.subject.name) / f"{pair.name}.json"
        if Path(pair.name).name == pair.name and single.exists():  # names with a folder never had such a file
            records[pair.subject.name, pair.name].append(ledger.read(single))
    for path in dict.fromkeys(pair.path for pair in pairs):
        for record in ledger.read_all(path):
            if record.get("kind") == "evaluation":
                records[record["model"]["name"], record["task"]["entry"]].append(record)
    return records


def earlier(pair: Pair, records: Records, audio: Callable[[], str | None] = lambda: None) -> TaskResult | None:
    """The pair's newest valid record; ``None`` if there is none. Its task must score as now, and its audio must be the same.

    audio: returns the digest of the present audio, and is called only for records with a digest. Without either digest the record
    counts. ValueError when all records of the model on the task entry are of other data, settings or seeds.
    """
    changes: list[list[str]] = []
    for record in reversed(records.get((pair.subject.name, pair.name), ())):
        changed = _changed(pair, record)
        if not changed:
            if not _other_audio(record, audio()):
                return TaskResult(pair.path, record, False)
            continue
        if "version" not in changed:  # records of another version are no conflict
            changes.append(changed)
    if not changes:
        return None
    different = ", ".join(sorted(changes, key=len)[0])
    raise ValueError(
        f"{pair.path.parent} holds a measurement of {pair.subject.name} on {pair.name} with another {different}; "
        "give another --out, or --fresh to measure it again"
    )


def why_anew(pair: Pair, records: Records, audio: Callable[[], str | None] = lambda: None) -> str:
    """Why a pair with a record is measured again; "" if it has no record."""
    for record in reversed(records.get((pair.subject.name, pair.name), ())):
        changed = _changed(pair, record)
        if not changed and _other_audio(record, audio()):
            return "its record is of other audio: files have changed since"
        if "version" in changed:
            return f"its record is of version {ledger.task_version(record)} of the task, this is {pair.request['version']}"
    return ""


def _other_audio(record: Mapping[str, Any], current: str | None) -> bool:
    """Whether the audio has changed since the record. False if either digest is unknown."""
    recorded = record["data"].get("audio")
    return recorded is not None and current is not None and recorded != current


def _changed(pair: Pair, record: Mapping[str, Any]) -> list[str]:
    """The keys of `Pair.request` that differ in a record. A record of an older version is valid if that version scored these settings as
    now (`Task.version_of`) and all else is the same."""
    kind, version = pair.entry.task.cls, ledger.task_version(record)
    recorded = {
        "version": kind.version_of(version, record["task"]["config"]),
        "model": record["model"]["fingerprint"],
        "config": ledger.portable(completed(type(pair.entry.task.config), record["task"]["config"])),
        "data": record["data"]["fingerprint"],
        "seeds": record["seeds"],
    }
    for key in ("reference", "host", "rater"):
        if key in pair.request:
            recorded[key] = record["details"].get(key, {}).get("fingerprint")
    changed = [key for key, value in pair.request.items() if recorded[key] != value]
    return ["version", *changed] if changed and "version" not in changed and version != kind.version else changed


def measure(pair: Pair, recordings: Recordings, bench: Workbench) -> TaskResult | Failure:
    """Measures a pair and writes its record. A ValueError becomes a Failure."""
    task = task_of(pair.entry)
    try:
        outcome = task.measure(pair.subject, recordings, bench)
    except ValueError as problem:
        return Failure(pair, str(problem))
    outcome_record = outcome.record()
    record = {
        **ledger.header("evaluation"),
        "model": pair.subject.record(),
        "task": {
            "entry": pair.name,
            "name": task.name,
            "version": task.version,
            "title": task.title,
            "config": pair.request["config"],
        },
        **outcome_record,
        "data": {
            "source": [Path(source.path).parent.name or Path(source.path).name for source in pair.entry.data],
            "fingerprint": pair.request["data"],
            **({} if pair.audio is None else {"audio": pair.audio}),
            **({} if pair.limit is None else {"limit": pair.limit}),
            **outcome_record["data"],
        },
        "seeds": pair.request["seeds"],
        "cost": {**outcome_record["cost"], "cached": bench.store.limit > 0},
    }
    ledger.write(pair.path, record)
    list_skipped(pair.path.parent / SKIPPED, pair.name, outcome.skipped, recordings.notes)
    return TaskResult(pair.path, record, True)


def list_skipped(path: Path, task: str, skipped: Sequence[Skipped], notes: Sequence[Note] = ()) -> None:
    """Adds skipped recordings and notes on the data to the list at `path`, without duplicates."""
    listed = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    rows = [  # without private folders; in ASCII, since a file's name may not be valid text
        json.dumps({"task": task, **row, "path": "/".join(Path(row["path"]).parts[-2:])}) for row in (*skipped, *notes)
    ]
    if new := list(dict.fromkeys(row for row in rows if row not in listed)):
        ledger.append(path, new)


def task_of(entry: SuiteEntry) -> Task:
    task: Task = entry.task.build()
    return task


def fingerprint(recordings: Recordings, files: Sequence[str] = ()) -> str:
    """Digest of the recordings' ids, parts and labels, and of the content of `files`; the same on every machine."""
    digest = hashlib.sha256()
    contents: dict[str, str] = {}

    def content(path: str) -> str:
        if path not in contents:
            contents[path] = _content(path)
        return contents[path]

    for item in recordings:
        fields = {**item.fields, RTTM: content(item.fields[RTTM])} if item.fields.get(RTTM) else item.fields
        digest.update(repr((item.id, item.start, item.duration, item.channel, sorted(fields.items()))).encode("utf-8", "replace"))
    digest.update(repr(recordings.trials).encode())
    for path in files:
        digest.update(content(path).encode())
    return digest.hexdigest()[:16]


def _content(path: str) -> str:
    """Digest of a file; its name if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return Path(path).name


def slug(name: str) -> str:
    """The name of a model's folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.") or "model"
