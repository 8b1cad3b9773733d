"""One task entry on one model: what was asked, whether it is measured already, and its entry in the ledger."""

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

Known = Mapping[tuple[str, str], Sequence[dict[str, Any]]]  # (model, task entry): its records, the oldest first


@dataclass(frozen=True)
class TaskResult:
    """One measured pair. path: the file of its record; new: measured now, not read from an earlier run."""

    path: Path
    record: dict[str, Any]
    new: bool


@dataclass(frozen=True)
class Pair:
    """A task entry on a model. asked: what a record must say to be of this pair. path: the file for its record. audio: the digest of
    what is heard (see `audio_digest`), where it is known. limit: the most recordings of a split, for a first look."""

    subject: Subject
    name: str
    entry: SuiteEntry
    asked: dict[str, Any]
    path: Path
    audio: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Failure:
    """A pair that could not be measured, and why."""

    pair: Pair
    reason: str

    def line(self) -> str:
        """In words."""
        return f"{self.pair.subject.name}  {self.pair.name}  not measured: {self.reason}"


def pair_of(subject: Subject, name: str, entry: SuiteEntry, data: str, bench: Workbench, out: Path) -> Pair:
    """data: the `fingerprint` of what the entry reads."""
    kind = entry.task.cls
    asked = {
        "version": kind.version,
        "model": subject.fingerprint,
        "config": ledger.portable(plain(entry.task.config)),
        "data": data,
        "seeds": list(bench.seeds),
    }
    if kind.compares and bench.reference is not None:
        asked["reference"] = bench.reference.fingerprint
    return Pair(subject, name, entry, asked, out / ledger.RECORDS)


def records_of(pairs: Sequence[Pair]) -> Known:
    """All that was measured before in the folder of `pairs`. Ledgers of one file per record, ``MODEL/TASK.json``, are read, too."""
    records: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for pair in pairs:
        single = pair.path.parent / slug(pair.subject.name) / f"{pair.name}.json"
        if Path(pair.name).name == pair.name and single.exists():  # a name with a path in it is no file's of ours
            records[pair.subject.name, pair.name].append(ledger.read(single))
    for path in dict.fromkeys(pair.path for pair in pairs):
        for record in ledger.read_all(path):
            if record.get("kind") == "evaluation":
                records[record["model"]["name"], record["task"]["entry"]].append(record)
    return records


def earlier(pair: Pair, known: Known, audio: Callable[[], str | None] = lambda: None) -> TaskResult | None:
    """The pair's newest record, if it is measured already, its task scores as it did then, and the audio is what it was.

    audio: the digest of the audio as it is now, asked for when a record says which it was; ``None`` where it cannot be known, and then the
    record counts, as one does that does not know its audio. ValueError when all that was measured of the model on the task entry is of
    other data, settings or seeds.
    """
    changes: list[list[str]] = []
    for record in reversed(known.get((pair.subject.name, pair.name), ())):
        changed = _changed(pair, record)
        if not changed:
            if not _other_audio(record, audio()):
                return TaskResult(pair.path, record, False)
            continue
        if "version" not in changed:  # what was scored otherwise stands in nobody's way
            changes.append(changed)
    if not changes:
        return None
    different = ", ".join(sorted(changes, key=len)[0])
    raise ValueError(
        f"{pair.path.parent} holds a measurement of {pair.subject.name} on {pair.name} with another {different}; "
        "give another --out, or --fresh to measure it again"
    )


def why_anew(pair: Pair, known: Known, audio: Callable[[], str | None] = lambda: None) -> str:
    """Why a pair that has a record is measured again; "" for one that has none."""
    for record in reversed(known.get((pair.subject.name, pair.name), ())):
        changed = _changed(pair, record)
        if not changed and _other_audio(record, audio()):
            return "its record is of other audio: files have changed since"
        if "version" in changed:
            return f"its record is of version {ledger.task_version(record)} of the task, this is {pair.asked['version']}"
    return ""


def _other_audio(record: Mapping[str, Any], current: str | None) -> bool:
    """Whether a record is of audio that is no longer there. False where either is not known."""
    recorded = record["data"].get("audio")
    return recorded is not None and current is not None and recorded != current


def _changed(pair: Pair, record: Mapping[str, Any]) -> list[str]:
    """What of `Pair.asked` is different in a record. One of an older version counts where that version scored these settings as this
    one does, and all else is the same."""
    kind, version = pair.entry.task.cls, ledger.task_version(record)
    recorded = {
        "version": kind.version_of(version, record["task"]["config"]),
        "model": record["model"]["fingerprint"],
        "config": ledger.portable(completed(type(pair.entry.task.config), record["task"]["config"])),
        "data": record["data"]["fingerprint"],
        "seeds": record["seeds"],
    }
    if "reference" in pair.asked:
        recorded["reference"] = record["details"]["reference"]["fingerprint"]
    changed = [key for key, value in pair.asked.items() if recorded[key] != value]
    return ["version", *changed] if changed and "version" not in changed and version != kind.version else changed


def measure(pair: Pair, recordings: Recordings, bench: Workbench) -> TaskResult | Failure:
    """The pair's task on its model, and writes its record. What is wrong with the data, and shows only now, is a Failure."""
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
            "config": pair.asked["config"],
        },
        **outcome_record,
        "data": {
            "source": [Path(source.path).parent.name or Path(source.path).name for source in pair.entry.data],
            "fingerprint": pair.asked["data"],
            **({} if pair.audio is None else {"audio": pair.audio}),
            **({} if pair.limit is None else {"limit": pair.limit}),
            **outcome_record["data"],
        },
        "seeds": pair.asked["seeds"],
        "cost": {**outcome_record["cost"], "cached": bench.store.limit > 0},
    }
    ledger.write(pair.path, record)
    list_skipped(pair.path.parent / SKIPPED, pair.name, outcome.skipped, recordings.notes)
    return TaskResult(pair.path, record, True)


def list_skipped(path: Path, task: str, skipped: Sequence[Skipped], notes: Sequence[Note] = ()) -> None:
    """Adds what a task could not use to the list at `path`, and what is noted of its data, unless it is there from a measurement before."""
    listed = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    rows = [  # results are shared, folders are private; in ASCII, since a file's name may be no text
        json.dumps({"task": task, **row, "path": "/".join(Path(row["path"]).parts[-2:])}) for row in (*skipped, *notes)
    ]
    if new := list(dict.fromkeys(row for row in rows if row not in listed)):
        ledger.append(path, new)


def task_of(entry: SuiteEntry) -> Task:
    task: Task = entry.task.build()
    return task


def fingerprint(recordings: Recordings, files: Sequence[str] = ()) -> str:
    """Digest of what is heard and what is to be said of it, the same on every machine. files: others that decide it, by their content."""
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
    """Digest of a file; its name where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return Path(path).name


def slug(name: str) -> str:
    """A folder's name for a model's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.") or "model"
