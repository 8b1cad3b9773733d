"""`sottovoce evaluate`: tasks on models, one record for each pair."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from sottovoce import recipes
from sottovoce.core import ledger
from sottovoce.core.registry import TASKS
from sottovoce.data import Recordings, workers
from sottovoce.data.durations import FILE as DURATIONS
from sottovoce.data.durations import present, timed
from sottovoce.data.recording import count_reasons, summary_of
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Bench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.config import SUPERB, Entry, Suite, load_suite, single
from sottovoce.evaluation.suite.mistakes import Mistakes, block
from sottovoce.evaluation.suite.pairs import (
    Failure,
    Pair,
    Result,
    earlier,
    fingerprint,
    measure,
    older_version,
    pair_of,
    records_of,
    task_of,
)

Say = Callable[[str], None]


class Unmeasured(ValueError):
    """Some pairs could not be measured. results: of the others, which are written."""

    def __init__(self, failures: Sequence[Failure], results: list[Result]) -> None:
        kept = f"{len(results)} of {len(results) + len(failures)} pairs are measured; the others were left out because of"
        super().__init__(block(kept, [failure.line() for failure in failures]))
        self.results = results


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
    allow_commands: bool = False,
    schedule: str | None = None,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
) -> list[Result]:
    """Runs `tasks` on `models` and, beside them, on `vs`, whose first one is the teacher that fidelity compares with.

    models, vs: folders, hub ids, ``demo``, ``log-mel``, ``fbank``, ``untrained:MODEL``. data: a task file (``.yaml``), the shipped
    ``testbed``, or one source of recordings for a single task. The record of each pair is added to ``out/records.jsonl``, and the pair is
    not measured again unless the task has a newer version; with `fresh` it is.
    jobs: so many tasks at a time, each on one core. schedule: "superb" for the benchmark's own number of updates of every probe whose
    number of steps is not said; by default linear heads are solved and others pass over the data (see `Training`). allow_commands: run
    the commands, and fetch from the addresses, that Lhotse manifests name. overrides: ``key=value`` of the task file, or of the single
    task.

    ValueError for anything that cannot be done, before hours are spent: models and data are opened and looked at first, and all that is
    wrong with them is said together. `Unmeasured`, which is a ValueError too, at the end, when a pair failed all the same.
    """
    ledger.commit()
    if schedule not in (None, SUPERB):
        raise ValueError(f"there is no schedule '{schedule}'; leave it out, or give '{SUPERB}' for the benchmark's own")
    suite, base = suite_of(tasks, data, root, overrides, schedule)
    suite = replace(suite, seeds=tuple(seeds)) if seeds else suite
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    if jobs > 1 and where.type != "cpu":
        raise ValueError("--jobs runs tasks side by side on a CPU's cores; leave it out on a GPU")
    if not vs:
        suite = _without_comparisons(suite, tasks, say)

    mistakes = Mistakes()
    opened: dict[str, Recordings] = {}
    digests: dict[str, str] = {}
    for name, entry in suite.tasks.items():
        with mistakes.of(name):
            opened[name] = entry.open(base, allow_commands)
            digests[name] = fingerprint(opened[name], task_of(entry).files())
    subjects = {source: subject.to(where) for source, subject in named([*models, *vs], mistakes).items()}
    reference = subjects.get(vs[0]) if vs else None
    store = FeatureStore(None if cache is None else Path(cache), cache_gb)
    bench = Bench(store, suite.seeds, where, reference, say if jobs <= 1 else to_stderr)  # `say` may not go to another process
    pairs = [
        pair_of(subject, name, suite.tasks[name], digest, bench, Path(out))
        for subject in subjects.values()
        for name, digest in digests.items()
        if not (TASKS.get(suite.tasks[name].task.name).compares and subject is reference)
    ]
    results, todo, failures = _sorted(pairs, fresh, say)
    asked_for = {pair.name: pair.entry for pair in todo}
    for name, entry in asked_for.items():
        opened[name] = present(opened[name])
        with mistakes.of(name):
            task_of(entry).check(opened[name])
    mistakes.stop()

    for result in results:
        say(line(result, 0.0))
    for failure in failures:
        say(failure.line())
    for name, entry in asked_for.items():
        opened[name] = with_durations(name, entry, opened[name], store, say)
    began, before = time.monotonic(), len(results)
    for number, outcome in enumerate(carried_out([(pair, opened[pair.name], bench) for pair in todo], jobs), 1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            say(outcome.line())
        else:
            results.append(outcome)
            measured = len(results) - before
            say(line(outcome, (time.monotonic() - began) / measured * (len(todo) - number)))
    if failures:
        raise Unmeasured(failures, results)
    return results


def _sorted(pairs: Sequence[Pair], fresh: bool, say: Say) -> tuple[list[Result], list[Pair], list[Failure]]:
    """What is measured already, what is to be measured, and what stands in the way of an earlier measurement."""
    results: list[Result] = []
    todo: list[Pair] = []
    failures: list[Failure] = []
    known = {} if fresh else records_of(pairs)
    for pair in pairs:
        try:
            found = earlier(pair, known)
        except ValueError as problem:
            failures.append(Failure(pair, str(problem)))
            continue
        if found is None:
            if before := older_version(pair, known):
                now = pair.asked["version"]
                say(
                    f"{pair.subject.name}  {pair.name}  measured anew: its record is of version {before} of the task, this is {now}"
                )
            todo.append(pair)
        else:
            results.append(found)
    return results, todo, failures


def _without_comparisons(suite: Suite, asked: Sequence[str], say: Say) -> Suite:
    """What can be measured without a teacher. ValueError when nothing can, or when a comparison was asked for by name."""
    comparing = [name for name, entry in suite.tasks.items() if TASKS.get(entry.task.name).compares]
    if comparing and ("all" not in asked or len(comparing) == len(suite.tasks)):
        raise ValueError(f"{', '.join(comparing)} compares with a teacher; name it with --vs")
    if comparing:
        say(f"left out, since no teacher is named with --vs: {', '.join(comparing)}")
    return replace(suite, tasks={name: entry for name, entry in suite.tasks.items() if name not in comparing})


def carried_out(todo: Sequence[tuple[Pair, Recordings, Bench]], jobs: int) -> Iterator[Result | Failure]:
    """`measure` of everything, as it gets done; in so many processes of one thread each when there are to be several."""
    if jobs <= 1 or not todo:
        yield from (measure(*arguments) for arguments in todo)
        return
    with ProcessPoolExecutor(
        min(jobs, len(todo)), get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(measure, *arguments) for arguments in todo]
        try:
            workers.own(pool._processes.values())
            for future in as_completed(futures):
                yield future.result()
        except KeyboardInterrupt:  # the workers leave it to us, and what they do may take an hour
            workers.end(list(pool._processes.values()))
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # after an error that is no user's the rest is not begun


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _start_worker(parent: int) -> None:
    workers.start(parent, in_main_thread=False)  # the pool starts some of them from a thread of its own
    torch.set_num_threads(1)
    ledger.commit()


def with_durations(name: str, entry: Entry, recordings: Recordings, store: FeatureStore, say: Say) -> Recordings:
    """The recordings with their durations, where the task wants to know them; what is missing or broken is counted aloud."""
    made = recordings
    if TASKS.get(entry.task.name).timed:
        kept = store.folder / DURATIONS if store.limit > 0 else None
        made = timed(recordings, kept, _now_and_then(say, f"{name}: reading how long the recordings are"))
    for text in summary_of(made.notes):
        say(f"{name}: {text}")
    if made.skipped:
        total = len(made) + len(made.skipped)
        say(f"{name}: {len(made.skipped)} of {total} recordings left out ({count_reasons(made.skipped)})")
    return made


def _now_and_then(say: Say, text: str, seconds: float = 10.0) -> Callable[[int, int], None]:
    """Progress in words, every so many seconds."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{text}: {done:,} of {total:,}")

    return progress


def named(sources: Sequence[str], mistakes: Mistakes) -> dict[str, Subject]:
    """The models by source, each under a name of its own: as much of its path as tells it from the others. Those that cannot be opened
    are mistakes."""
    subjects: dict[str, Subject] = {}
    for source in dict.fromkeys(sources):
        with mistakes.of(source):
            subjects[source] = open_subject(source)
    names = [subject.name for subject in subjects.values()]
    return {
        source: replace(subject, name="-".join(Path(source).parts[-2:])) if names.count(subject.name) > 1 else subject
        for source, subject in subjects.items()
    }


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


def suite_of(
    tasks: Sequence[str], data: str | Path, root: str | Path | None, overrides: Sequence[str], schedule: str | None = None
) -> tuple[Suite, Path]:
    """The suite and the folder its paths start from."""
    text = str(data)
    shipped = text in recipes.task_files() and not Path(text).exists()
    if text.endswith((".yaml", ".yml")) or shipped:
        suite = load_suite(data, overrides, root, schedule).choose(tasks)
        base = Path(suite.root).expanduser()
        if root is None and shipped:
            raise ValueError(f"'{text}' needs its corpora; say where they are with --root FOLDER")
        if not base.is_dir():
            raise ValueError(f"{base}, which the tasks' paths start from, is not a folder; give --root")
        return suite, base
    if len(tasks) != 1 or tasks[0] == "all":
        raise ValueError("say which task the data is for, e.g. --task asr, or give a task file (.yaml) as --data")
    return single(tasks[0], data, overrides, schedule), Path.cwd()
