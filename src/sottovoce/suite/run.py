"""`sottovoce evaluate`: tasks on models, one ledger entry for each pair."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from sottovoce import ledger, recipes
from sottovoce.config import plain
from sottovoce.data import Recordings
from sottovoce.probing.features import FeatureStore
from sottovoce.probing.subject import Subject, open_subject
from sottovoce.registry import TASKS
from sottovoce.suite.config import Entry, Suite, load_suite, single
from sottovoce.tasks.base import Bench

Say = Callable[[str], None]
SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class Result:
    """One measured pair. path: of the ledger entry; record: what it holds; new: measured now, not read from an earlier run."""

    path: Path
    record: dict[str, Any]
    new: bool


def evaluate(
    models: Sequence[str],
    *,
    data: str | Path,
    tasks: Sequence[str] = ("all",),
    vs: Sequence[str] = (),
    out: str | Path = "results",
    root: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    cache_gb: float = 10.0,
    jobs: int = 1,
    fresh: bool = False,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
) -> list[Result]:
    """Runs `tasks` on `models` and, beside them, on `vs`, whose first one is the teacher that fidelity compares with.

    models, vs: folders, hub ids, ``demo``, ``log-mel``, ``untrained:MODEL``. data: a task file (``.yaml``), the shipped ``testbed``, or
    one source of recordings for a single task. Each pair is written to ``out/MODEL/TASK.json`` and not measured again; with `fresh` it
    is. jobs: so many tasks at a time, each on one core. overrides: ``key=value`` of the task file, or of the single task.

    ValueError for anything that cannot be done, before hours are spent: models and data are opened first.
    """
    ledger.commit()
    suite, base = _suite(tasks, data, root, overrides)
    suite = replace(suite, seeds=tuple(seeds)) if seeds else suite
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    if jobs > 1 and where.type != "cpu":
        raise ValueError("--jobs runs tasks side by side on a CPU's cores; leave it out on a GPU")
    subjects = {source: subject.to(where) for source, subject in named([*models, *vs]).items()}
    reference = subjects[vs[0]] if vs else None
    if reference is None:
        suite = _without_comparisons(suite, tasks, say)
    opened = {name: entry.open(base) for name, entry in suite.tasks.items()}
    bench = Bench(FeatureStore(None if cache is None else Path(cache), cache_gb), suite.seeds, where, reference)
    todo = [
        (subject, name, entry, opened[name], bench, Path(out), fresh)
        for subject in subjects.values()
        for name, entry in suite.tasks.items()
        if not (TASKS.get(entry.task.name).compares and subject is reference)
    ]
    results: list[Result] = []
    began, measured = time.monotonic(), 0
    for number, result in enumerate(carried_out(todo, jobs), 1):
        results.append(result)
        measured += result.new
        left = (time.monotonic() - began) / measured * (len(todo) - number) if measured else 0.0
        say(line(result, left))
    return results


def _without_comparisons(suite: Suite, asked: Sequence[str], say: Say) -> Suite:
    """What can be measured without a teacher. ValueError when nothing can, or when a comparison was asked for by name."""
    comparing = [name for name, entry in suite.tasks.items() if TASKS.get(entry.task.name).compares]
    if comparing and ("all" not in asked or len(comparing) == len(suite.tasks)):
        raise ValueError(f"{', '.join(comparing)} compares with a teacher; name it with --vs")
    if comparing:
        say(f"left out, since no teacher is named with --vs: {', '.join(comparing)}")
    return replace(suite, tasks={name: entry for name, entry in suite.tasks.items() if name not in comparing})


def carried_out(todo: Sequence[Any], jobs: int) -> Iterator[Result]:
    """`pair` of everything, as it gets done; in so many processes of one thread each when there are to be several."""
    if jobs <= 1:
        yield from (pair(*arguments) for arguments in todo)
        return
    with ProcessPoolExecutor(min(jobs, len(todo)), get_context("spawn"), initializer=_start_worker) as pool:
        futures = [pool.submit(pair, *arguments) for arguments in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the rest is not begun


def _start_worker() -> None:
    torch.set_num_threads(1)
    ledger.commit()


def pair(subject: Subject, name: str, entry: Entry, recordings: Recordings, bench: Bench, out: Path, fresh: bool) -> Result:
    """One task on one model, unless its entry is there already."""
    cls = TASKS.get(entry.task.name)
    task = cls(entry.task.config)
    path = out / slug(subject.name) / f"{name}.json"
    asked = {
        "model": subject.fingerprint,
        "config": ledger.portable(plain(entry.task.config)),
        "data": fingerprint(recordings),
        "seeds": list(bench.seeds),
    }
    if cls.compares and bench.reference is not None:
        asked["reference"] = bench.reference.fingerprint
    if path.exists() and not fresh:
        found = json.loads(path.read_text(encoding="utf-8"))
        had = {"model": found["model"]["fingerprint"], "config": found["task"]["config"], "data": found["data"]["fingerprint"]}
        had["seeds"] = found["seeds"]
        if "reference" in asked:
            had["reference"] = found["details"]["reference"]["fingerprint"]
        if had == asked:
            return Result(path, found, False)
        changed = ", ".join(key for key, value in asked.items() if had[key] != value)
        raise ValueError(f"{path} holds a measurement with another {changed}; give another --out, or --fresh to replace it")
    outcome = task.measure(subject, recordings, bench)
    made = outcome.record()
    record = {
        **ledger.header("evaluation"),
        "model": subject.record(),
        "task": {"entry": name, "name": cls.name, "title": cls.title, "config": asked["config"]},
        **made,
        "data": {
            "source": [Path(source.path).parent.name or Path(source.path).name for source in entry.data],
            "fingerprint": asked["data"],
            **made["data"],
        },
        "seeds": asked["seeds"],
        "cost": {**made["cost"], "cached": bench.store.limit > 0},
    }
    ledger.write(path, record)
    if outcome.skipped:
        rows = "".join(
            json.dumps(
                {"task": name, "path": "/".join(Path(row["path"]).parts[-2:]), "reason": row["reason"]}, ensure_ascii=False
            )
            + "\n"
            for row in outcome.skipped  # results are shared, folders are private
        )
        with open(path.parent / SKIPPED, "a", encoding="utf-8") as file:
            file.write(rows)
    return Result(path, record, True)


def named(sources: Sequence[str]) -> dict[str, Subject]:
    """The models by source, each under a name of its own: as much of its path as tells it from the others."""
    subjects = {source: open_subject(source) for source in sources}
    names = [subject.name for subject in subjects.values()]
    return {
        source: replace(subject, name="-".join(Path(source).parts[-2:])) if names.count(subject.name) > 1 else subject
        for source, subject in subjects.items()
    }


def fingerprint(recordings: Recordings) -> str:
    """Digest of what is heard and what is to be said of it, the same on every machine."""
    digest = hashlib.sha256()
    for item in recordings:
        digest.update(
            repr((item.id, item.start, item.duration, item.channel, sorted(item.fields.items()))).encode("utf-8", "replace")
        )
    digest.update(repr(recordings.trials).encode())
    return digest.hexdigest()[:16]


def slug(name: str) -> str:
    """A folder's name for a model's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-.") or "model"


def line(result: Result, left: float) -> str:
    """One measured pair in words, with the time left."""
    record = result.record
    name, measure = next(iter(record["measures"].items()))
    unit = "" if not measure["unit"] else f" {measure['unit']}"
    spread = "" if measure["low"] is None else f" ({measure['low']:.4g} to {measure['high']:.4g})"
    value = "no value" if measure["value"] is None else f"{measure['value']:.4g}{unit}{spread}"
    skipped = f", {record['data']['skipped']} skipped" if record["data"]["skipped"] else ""
    took = f"{record['cost']['seconds']:.0f} s" if result.new else "measured before"
    ahead = f", about {max(1, round(left / 60))} min left" if left > 30 else ""
    return f"{record['model']['name']}  {record['task']['entry']}  {name} {value}  [{took}{skipped}{ahead}]"


def _suite(tasks: Sequence[str], data: str | Path, root: str | Path | None, overrides: Sequence[str]) -> tuple[Suite, Path]:
    """The suite and the folder its paths start from."""
    text = str(data)
    shipped = text in recipes.task_files() and not Path(text).exists()
    if text.endswith((".yaml", ".yml")) or shipped:
        suite = load_suite(data, overrides, root).choose(tasks)
        base = Path(suite.root).expanduser()
        if root is None and shipped:
            raise ValueError(f"'{text}' needs its corpora; say where they are with --root FOLDER")
        if not base.is_dir():
            raise ValueError(f"{base}, which the tasks' paths start from, is not a folder; give --root")
        return suite, base
    if len(tasks) != 1 or tasks[0] == "all":
        raise ValueError("say which task the data is for, e.g. --task asr, or give a task file (.yaml) as --data")
    return single(tasks[0], data, overrides), Path.cwd()
