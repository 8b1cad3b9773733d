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
from sottovoce.evaluation.subjects.subject import Ability, Subject
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
    """Some pairs, `failures`, could not be measured. results: those of the other pairs, whose records are written."""

    def __init__(self, failures: Sequence[Failure], results: list[TaskResult]) -> None:
        head = f"{len(results)} of {len(results) + len(failures)} pairs are measured; the others were left out because of"
        super().__init__(block(head, [failure.line() for failure in failures]))
        self.results, self.failures = results, list(failures)


def evaluate(
    models: Sequence[str],
    *,
    data: str | Path | Sequence[str | Path],
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
    """Runs `tasks` on `models` and on `vs`, models to compare with; fidelity compares with the first of these.

    models, vs: folders, hub ids, ``demo``, ``log-mel``, ``fbank``, ``untrained:MODEL``. Without models, recordings are scored by the
    shipped ``demo-quality``. data: a task file (``.yaml``), the shipped
    ``testbed``, or one or several sources of recordings for a single task. The record of each pair is added to ``out/records.jsonl``. A
    pair with a valid record is not measured again, except with `fresh`.
    jobs: tasks to run at a time, each on one core. schedule: "superb" for the benchmark's number of updates, for probes whose entry sets
    none; by default linear heads are solved and others are trained by passes over the data (see `Training`). allow_commands: run
    commands and open addresses in Lhotse manifests. limit: the most recordings per split, for a quick look; its entries are called
    ``NAME@LIMIT`` and never mixed with full ones. overrides: ``key=value`` for the task file or the single task. say: called with
    messages; watch: called with a `State` of progress, often and also from other threads.

    ValueError lists all mistakes in models and data before anything runs. `Unmeasured`, also a ValueError, is raised at the end if pairs
    have failed.
    """
    ledger.commit()
    if schedule not in (None, SUPERB):
        raise ValueError(f"there is no schedule '{schedule}'; leave it out, or give '{SUPERB}' for the benchmark's own")
    if limit is not None and limit < 1:
        raise ValueError("--limit must be at least 1 recording of a split")
    course = Course(watch)
    suite, base = suite_of(tasks, data, root, overrides, schedule)
    models = models or default_models(suite)
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
    unable = check_abilities(subjects, suite, mistakes)
    reference = subjects.get(vs[0]) if vs else None
    if reference is not None and any(reference.name == name for name, _ in unable):
        reference = None  # a mistake, said below
    store = FeatureStore(None if cache is None else Path(cache), cache_gb)
    bench = Workbench(store, suite.seeds, where, reference, out=Path(out))
    audio = AudioDigests({name: recordings for name, recordings in opened.items() if name in digests}, store, course)
    pairs = [
        replace(pair_of(subject, name, suite.tasks[name], digest, bench, Path(out)), limit=limit)
        for subject in subjects.values()
        for name, digest in digests.items()
        if not (suite.tasks[name].task.cls.compares and subject is reference)
        and (subject.name, suite.tasks[name].task.cls.needs) not in unable
    ]
    results, todo, failures = _sort_pairs(pairs, fresh, audio, say)
    entries = {pair.name: pair.entry for pair in todo}
    for name, entry in entries.items():
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
    for name, entry in entries.items():
        course.preparing(f"reading the files of {name}")
        opened[name] = with_durations(name, entry, opened[name], store, say)
    todo = [replace(pair, audio=audio(pair.name)) for pair in todo]
    course.begin([(f"{pair.subject.name} on {pair.name}", pair.name) for pair in todo], jobs)
    for outcome in outcomes([(pair, opened[pair.name], bench) for pair in todo], jobs, course, say):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            say(outcome.line())
        else:
            results.append(outcome)
            say(line(outcome))
    if failures:
        raise Unmeasured(failures, results)
    return results


def default_models(suite: Suite) -> Sequence[str]:
    """What is measured where no model is named: the shipped quality model if all tasks ask for scores. ValueError if they do not."""
    if any(entry.task.cls.needs != "scores" for entry in suite.tasks.values()):
        raise ValueError("name a model to measure: a folder, a hub id, or demo; only --task quality-score has a model of its own")
    return ["demo-quality"]


def _sort_pairs(
    pairs: Sequence[Pair], fresh: bool, audio: AudioDigests, say: Say
) -> tuple[list[TaskResult], list[Pair], list[Failure]]:
    """Pairs with a valid record, pairs to measure, and pairs with a conflicting record."""
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


def _without_comparisons(suite: Suite, names: Sequence[str], say: Say) -> Suite:
    """The suite without tasks that need a teacher. ValueError when no task is left, or when the user named such a task."""
    comparing = [name for name, entry in suite.tasks.items() if entry.task.cls.compares]
    if comparing and ("all" not in names or len(comparing) == len(suite.tasks)):
        raise ValueError(f"{', '.join(comparing)} compares with a teacher; name it with --vs")
    if comparing:
        say(f"left out, since no teacher is named with --vs: {', '.join(comparing)}")
    return replace(suite, tasks={name: entry for name, entry in suite.tasks.items() if name not in comparing})


class AudioDigests:
    """The digest of each entry's audio, computed at its first use."""

    def __init__(self, opened: Mapping[str, Recordings], store: FeatureStore, course: Course) -> None:
        self.opened, self.course = dict(opened), course
        self.file = store.folder / DIGESTS if store.limit > 0 else None
        self.digests: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        if name not in self.digests:

            def moved(done: int, total: int) -> None:
                self.course.preparing(f"reading the audio files of {name}: {done:,} of {total:,}")

            self.digests[name] = audio_digest(self.opened[name], self.file, moved)
        return self.digests[name]


Job = tuple[Pair, Recordings, Workbench]


def outcomes(todo: Sequence[Job], jobs: int, course: Course, say: Say) -> Iterator[TaskResult | Failure]:
    """Measures all pairs and yields each outcome; `jobs` above 1 uses that many processes of one thread each."""
    if jobs <= 1 or not todo:
        first = once(say)
        for number, (pair, recordings, bench) in enumerate(todo):
            course.start(number)
            outcome = measure(pair, recordings, replace(bench, say=first, progress=partial(course.moved, number)))
            course.end(number)
            yield outcome
        return
    context = get_context("spawn")
    messages = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(messages, course, once(say)), daemon=True)
    listener.start()
    with ProcessPoolExecutor(min(jobs, len(todo)), context, initializer=_start_worker, initargs=(os.getpid(), messages)) as pool:
        futures = {pool.submit(_measure, number, *job): number for number, job in enumerate(todo)}
        try:
            workers.own(pool._processes.values())
            for future in as_completed(futures):
                outcome = future.result()
                course.end(futures[future])
                yield outcome
        except KeyboardInterrupt:  # workers ignore it, and a task may take an hour
            workers.end(list(pool._processes.values()))
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # after an unexpected error, starts no other pair
            messages.put(None)
            listener.join(timeout=5)


def once(say: Say) -> Say:
    """A `say` that drops texts it has said before."""
    texts: set[str] = set()

    def say_once(text: str) -> None:
        if text not in texts:
            texts.add(text)
            say(text)

    return say_once


def _listen(messages: Any, course: Course, say: Say) -> None:
    """Passes on the messages of workers until it reads None."""
    while (message := messages.get()) is not None:
        if isinstance(message, str):
            say(message)
        else:
            course.moved(*message)


_to_parent: Any = None  # a worker's queue to the parent
REPORT_SECONDS = 0.5  # seconds between two progress reports of a worker


def _start_worker(parent: int, messages: Any) -> None:
    global _to_parent
    workers.start(parent, in_main_thread=False)  # the pool starts some workers from another thread
    torch.set_num_threads(1)
    ledger.commit()
    _to_parent = messages


def _measure(number: int, pair: Pair, recordings: Recordings, bench: Workbench) -> TaskResult | Failure:
    """`measure` in a worker."""
    last = 0.0

    def moved(stage: str, done: float, total: float) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            _to_parent.put((number, stage, done, total))

    return measure(pair, recordings, replace(bench, say=_to_parent.put, progress=moved))


def with_durations(name: str, entry: SuiteEntry, recordings: Recordings, store: FeatureStore, say: Say) -> Recordings:
    """The recordings, with durations if the task needs them. Prints how many recordings are missing or broken."""
    if entry.task.cls.timed:
        file = store.folder / DURATIONS if store.limit > 0 else None
        recordings = timed(recordings, file, _throttled(say, f"{name}: reading how long the recordings are"))
    for text in summary_of(recordings.notes):
        say(f"{name}: {text}")
    if skipped := recordings.skipped:
        say(f"{name}: {len(skipped)} of {len(recordings) + len(skipped)} recordings left out ({count_reasons(skipped)})")
    return recordings


def _throttled(say: Say, text: str, seconds: float = 10.0) -> Callable[[int, int], None]:
    """A progress callback that prints at most once per `seconds`."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{text}: {done:,} of {total:,}")

    return progress


def named(sources: Sequence[str], mistakes: Mistakes) -> dict[str, Subject]:
    """The models by source, with distinct names: of two equal names, the folder is added. Others go to `mistakes`."""
    subjects: dict[str, Subject] = {}
    for source in dict.fromkeys(sources):
        with mistakes.of(source):
            subjects[source] = open_subject(source)
    names = [subject.name for subject in subjects.values()]
    return {
        source: replace(subject, name="-".join(Path(source).parts[-2:])) if names.count(subject.name) > 1 else subject
        for source, subject in subjects.items()
    }


def check_abilities(subjects: Mapping[str, Subject], suite: Suite, mistakes: Mistakes) -> set[tuple[str, Ability]]:
    """The names of models that cannot do what tasks need, with what it is; each is also added to `mistakes`."""
    tasks: dict[Ability, list[str]] = {}
    for name, entry in suite.tasks.items():
        tasks.setdefault(entry.task.cls.needs, []).append(name)
    unable = set()
    for ability, names in tasks.items():
        for subject in subjects.values():
            with mistakes.of(", ".join(names)):
                unable.add((subject.name, ability))
                subject.check(ability)
                unable.remove((subject.name, ability))
    return unable


def line(result: TaskResult) -> str:
    """The result of a pair, as text."""
    record = result.record
    skipped = f", {record['data']['skipped']} skipped" if record["data"]["skipped"] else ""
    took = f"{record['cost']['seconds']:.0f} s" if result.new else "measured before"
    return f"{record['model']['name']}  {record['task']['entry']}  {scores(record)}  [{took}{skipped}]"


def scores(record: Mapping[str, Any]) -> str:
    """The primary measure of a record, as text; if it has no value, the measures that have one."""
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
    tasks: Sequence[str],
    data: str | Path | Sequence[str | Path],
    root: str | Path | None,
    overrides: Sequence[str],
    schedule: str | None = None,
) -> tuple[Suite, Path]:
    """The suite and the folder of its relative paths."""
    sources = [data] if isinstance(data, (str, Path)) else list(data)
    if not sources:
        raise ValueError("name recordings or a task file with --data")
    text = str(sources[0])
    shipped = text in recipes.task_files() and not Path(text).exists()
    if text.endswith((".yaml", ".yml")) or shipped:
        if len(sources) > 1:
            raise ValueError(f"{text} names its own data; leave out {', '.join(map(str, sources[1:4]))}")
        suite = load_suite(text, overrides, root, schedule).choose(tasks)
        base = Path(suite.root).expanduser()
        if root is None and shipped:
            raise ValueError(f"'{text}' needs its corpora; give their folder with --root FOLDER")
        if not base.is_dir():
            raise ValueError(f"the root of the tasks' paths, {base}, is not a folder; give --root")
        return suite, base
    if len(tasks) != 1 or tasks[0] == "all":
        raise ValueError("say which task the data is for, e.g. --task asr, or give a task file (.yaml) as --data")
    return single(tasks[0], sources, overrides, schedule), Path.cwd()
