"""`sottovoce evaluate`: tasks on models, one record for each pair."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from sottovoce import recipes
from sottovoce.core import ledger
from sottovoce.data import Recordings, workers
from sottovoce.data.durations import FILE as DURATIONS
from sottovoce.data.durations import present, timed
from sottovoce.data.recording import count_reasons, summary_of
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Workbench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.audio import FILE as DIGESTS
from sottovoce.evaluation.suite.audio import audio_digest
from sottovoce.evaluation.suite.config import SUPERB, Suite, SuiteEntry, limited, load_suite, single
from sottovoce.evaluation.suite.mistakes import Mistakes, block
from sottovoce.evaluation.suite.pairs import (
    Failure,
    Pair,
    TaskResult,
    earlier,
    fingerprint,
    measure,
    pair_of,
    records_of,
    task_of,
    why_anew,
)
from sottovoce.evaluation.suite.progress import Course, Watch

Say = Callable[[str], None]


class Unmeasured(ValueError):
    """Some pairs could not be measured, `failures`. results: of the others, which are written."""

    def __init__(self, failures: Sequence[Failure], results: list[TaskResult]) -> None:
        head = f"{len(results)} of {len(results) + len(failures)} pairs are measured; the others were left out because of"
        super().__init__(block(head, [failure.line() for failure in failures]))
        self.results, self.failures = results, list(failures)


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
    limit: int | None = None,
    overrides: Sequence[str] = (),
    say: Say = lambda text: None,
    watch: Watch = lambda state: None,
) -> list[TaskResult]:
    """Runs `tasks` on `models` and, beside them, on `vs`, whose first one is the teacher that fidelity compares with.

    models, vs: folders, hub ids, ``demo``, ``log-mel``, ``fbank``, ``untrained:MODEL``. data: a task file (``.yaml``), the shipped
    ``testbed``, or one source of recordings for a single task. The record of each pair is added to ``out/records.jsonl``, and the pair is
    not measured again unless the task has a newer version; with `fresh` it is.
    jobs: so many tasks at a time, each on one core. schedule: "superb" for the benchmark's own number of updates of every probe whose
    number of steps is not said; by default linear heads are solved and others pass over the data (see `Training`). allow_commands: run
    the commands, and fetch from the addresses, that Lhotse manifests name. limit: at most so many recordings of each split, for a first
    look; its entries are called ``NAME@LIMIT``, so that their numbers never stand beside full ones. overrides: ``key=value`` of the task
    file, or of the single task. say: told what a reader should know; watch: told how far all of it is, often, from other threads too.

    ValueError for anything that cannot be done, before hours are spent: models and data are opened and looked at first, and all that is
    wrong with them is said together. `Unmeasured`, which is a ValueError too, at the end, when a pair failed all the same.
    """
    ledger.commit()
    if schedule not in (None, SUPERB):
        raise ValueError(f"there is no schedule '{schedule}'; leave it out, or give '{SUPERB}' for the benchmark's own")
    if limit is not None and limit < 1:
        raise ValueError("--limit must be at least 1 recording of a split")
    course = Course(watch)
    suite, base = suite_of(tasks, data, root, overrides, schedule)
    if limit is not None:
        suite = replace(suite, tasks={f"{name}@{limit}": entry for name, entry in suite.tasks.items()})
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
            course.preparing(f"reading the data of {name}")
            recordings = entry.open(base, allow_commands)
            opened[name] = recordings if limit is None else limited(recordings, limit)
            digests[name] = fingerprint(opened[name], task_of(entry).files())
    course.preparing("opening the models")
    subjects = {source: subject.to(where) for source, subject in named([*models, *vs], mistakes).items()}
    reference = subjects.get(vs[0]) if vs else None
    store = FeatureStore(None if cache is None else Path(cache), cache_gb)
    bench = Workbench(store, suite.seeds, where, reference)
    audio = AudioDigests({name: recordings for name, recordings in opened.items() if name in digests}, store, course)
    pairs = [
        replace(pair_of(subject, name, suite.tasks[name], digest, bench, Path(out)), limit=limit)
        for subject in subjects.values()
        for name, digest in digests.items()
        if not (suite.tasks[name].task.cls.compares and subject is reference)
    ]
    results, todo, failures = _sorted(pairs, fresh, audio, say)
    asked_for = {pair.name: pair.entry for pair in todo}
    for name, entry in asked_for.items():
        opened[name] = present(opened[name])
        with mistakes.of(name):
            task_of(entry).check(opened[name])
    mistakes.stop()

    for result in results:
        say(line(result))
    for failure in failures:
        say(failure.line())
    if blind := sum("audio" not in result.record["data"] for result in results):
        say(f"{blind} of these records do not say which audio they are of, and count as measured; --fresh measures them again")
    for name, entry in asked_for.items():
        course.preparing(f"reading the files of {name}")
        opened[name] = with_durations(name, entry, opened[name], store, say)
    todo = [replace(pair, audio=audio(pair.name)) for pair in todo]
    course.begin([(f"{pair.subject.name} on {pair.name}", pair.name) for pair in todo], jobs)
    for outcome in carried_out([(pair, opened[pair.name], bench) for pair in todo], jobs, course, say):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            say(outcome.line())
        else:
            results.append(outcome)
            say(line(outcome))
    if failures:
        raise Unmeasured(failures, results)
    return results


def _sorted(
    pairs: Sequence[Pair], fresh: bool, audio: AudioDigests, say: Say
) -> tuple[list[TaskResult], list[Pair], list[Failure]]:
    """What is measured already, what is to be measured, and what stands in the way of an earlier measurement."""
    results: list[TaskResult] = []
    todo: list[Pair] = []
    failures: list[Failure] = []
    records = {} if fresh else records_of(pairs)
    for pair in pairs:
        try:
            result = earlier(pair, records, partial(audio, pair.name))
        except ValueError as problem:
            failures.append(Failure(pair, str(problem)))
            continue
        if result is None:
            if why := why_anew(pair, records, partial(audio, pair.name)):
                say(f"{pair.subject.name}  {pair.name}  measured anew: {why}")
            todo.append(pair)
        else:
            results.append(result)
    return results, todo, failures


def _without_comparisons(suite: Suite, asked: Sequence[str], say: Say) -> Suite:
    """What can be measured without a teacher. ValueError when nothing can, or when a comparison was asked for by name."""
    comparing = [name for name, entry in suite.tasks.items() if entry.task.cls.compares]
    if comparing and ("all" not in asked or len(comparing) == len(suite.tasks)):
        raise ValueError(f"{', '.join(comparing)} compares with a teacher; name it with --vs")
    if comparing:
        say(f"left out, since no teacher is named with --vs: {', '.join(comparing)}")
    return replace(suite, tasks={name: entry for name, entry in suite.tasks.items() if name not in comparing})


class AudioDigests:
    """The digest of each entry's audio, computed when it is first asked for."""

    def __init__(self, opened: Mapping[str, Recordings], store: FeatureStore, course: Course) -> None:
        self.opened, self.course = dict(opened), course
        self.kept = store.folder / DIGESTS if store.limit > 0 else None
        self.known: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        if name not in self.known:

            def moved(done: int, total: int) -> None:
                self.course.preparing(f"reading the audio files of {name}: {done:,} of {total:,}")

            self.known[name] = audio_digest(self.opened[name], self.kept, moved)
        return self.known[name]


Job = tuple[Pair, Recordings, Workbench]


def carried_out(todo: Sequence[Job], jobs: int, course: Course, say: Say) -> Iterator[TaskResult | Failure]:
    """`measure` of everything, as it gets done; in so many processes of one thread each when there are to be several."""
    if jobs <= 1 or not todo:
        first = once(say)
        for number, (pair, recordings, bench) in enumerate(todo):
            course.start(number)
            outcome = measure(pair, recordings, replace(bench, say=first, progress=partial(course.moved, number)))
            course.end(number)
            yield outcome
        return
    context = get_context("spawn")
    told_by_workers = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(told_by_workers, course, once(say)), daemon=True)
    listener.start()
    with ProcessPoolExecutor(
        min(jobs, len(todo)), context, initializer=_start_worker, initargs=(os.getpid(), told_by_workers)
    ) as pool:
        futures = {pool.submit(_measure, number, *job): number for number, job in enumerate(todo)}
        try:
            workers.own(pool._processes.values())
            for future in as_completed(futures):
                outcome = future.result()
                course.end(futures[future])
                yield outcome
        except KeyboardInterrupt:  # the workers leave it to us, and what they do may take an hour
            workers.end(list(pool._processes.values()))
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # after an error that is no user's the rest is not begun
            told_by_workers.put(None)
            listener.join(timeout=5)


def once(say: Say) -> Say:
    """Says a text the first time only."""
    texts: set[str] = set()

    def say_once(text: str) -> None:
        if text not in texts:
            texts.add(text)
            say(text)

    return say_once


def _listen(told_by_workers: Any, course: Course, say: Say) -> None:
    """Passes on what workers tell, until there is nothing more."""
    while (message := told_by_workers.get()) is not None:
        if isinstance(message, str):
            say(message)
        else:
            course.moved(*message)


_to_parent: Any = None  # a worker's way to tell something
OFTEN = 0.5  # seconds between two words of a worker on how far it is


def _start_worker(parent: int, told_by_workers: Any) -> None:
    global _to_parent
    workers.start(parent, in_main_thread=False)  # the pool starts some of them from a thread of its own
    torch.set_num_threads(1)
    ledger.commit()
    _to_parent = told_by_workers


def _measure(number: int, pair: Pair, recordings: Recordings, bench: Workbench) -> TaskResult | Failure:
    """`measure` in a worker."""
    last = 0.0

    def moved(stage: str, done: float, total: float) -> None:
        nonlocal last
        if time.monotonic() - last >= OFTEN:
            last = time.monotonic()
            _to_parent.put((number, stage, done, total))

    return measure(pair, recordings, replace(bench, say=_to_parent.put, progress=moved))


def with_durations(name: str, entry: SuiteEntry, recordings: Recordings, store: FeatureStore, say: Say) -> Recordings:
    """The recordings with their durations, where the task wants to know them; what is missing or broken is counted aloud."""
    made = recordings
    if entry.task.cls.timed:
        file = store.folder / DURATIONS if store.limit > 0 else None
        made = timed(recordings, file, _now_and_then(say, f"{name}: reading how long the recordings are"))
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


def line(result: TaskResult) -> str:
    """One measured pair in words."""
    record = result.record
    skipped = f", {record['data']['skipped']} skipped" if record["data"]["skipped"] else ""
    took = f"{record['cost']['seconds']:.0f} s" if result.new else "measured before"
    return f"{record['model']['name']}  {record['task']['entry']}  {scores(record)}  [{took}{skipped}]"


def scores(record: Mapping[str, Any]) -> str:
    """The primary measure of a record; where it has no value, that, and those that have one."""
    measures = record["measures"]
    without = [name for name, measure in measures.items() if measure["value"] is None]
    primary = next(iter(measures))
    shown = [primary] if primary not in without else [name for name in measures if name not in without]
    parts = [f"{name} has no value" for name in without if primary in without]
    return "; ".join([*parts, *(_measured(name, measures[name]) for name in shown)])


def _measured(name: str, measure: Mapping[str, Any]) -> str:
    unit = "" if not measure["unit"] else f" {measure['unit']}"
    spread = "" if measure["low"] is None else f" ({measure['low']:.4g} to {measure['high']:.4g})"
    return f"{name} {measure['value']:.4g}{unit}{spread}"


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
