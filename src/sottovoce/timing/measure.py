"""`sottovoce bench`: times models on runtimes, side by side, for several clip lengths and batch sizes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from sottovoce.core import ledger
from sottovoce.core.registry import suggestion
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import encoder_cost, total
from sottovoce.timing.machine import header
from sottovoce.timing.rounds import Timed, in_turns, interval, median, percentile
from sottovoce.timing.runtimes import RUNTIMES, Unavailable
from sottovoce.timing.worker import Timing, Worker

SECONDS, BATCHES, ROUNDS = (1.0, 2.0, 5.0, 10.0, 30.0), (1, 8), 6

Say = Callable[[str], None]
Key = tuple[str, str]  # model, runtime


def bench(
    models: Sequence[str],
    *,
    vs: str | None = None,
    runtimes: Sequence[str] = ("torch",),
    seconds: Sequence[float] = SECONDS,
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    threads: int | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Times the models and returns the record, of kind "bench" in the ledger.

    models, vs: folders, hub ids, ``demo``. `vs` (by default the first model) on the first runtime is the reference. Every pair of model
    and runtime runs in its own process; pairs that cannot run here are listed under "skipped". Clips are noise of equal length, without
    padding. ValueError for models that do not load and for invalid options.
    """
    check(models, runtimes, seconds, batches, rounds)
    threads = threads or torch.get_num_threads()
    names = distinct([*([vs] if vs else []), *models])
    record: dict[str, Any] = {
        **header("bench", threads),  # at the start, for the commit
        "load": [_load()],
        "rounds": rounds,
        "models": [describe(name) for name in names],
        "reference": {"model": _short(names[0]), "runtime": runtimes[0]},
        "rows": [],
        "skipped": [],
    }
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sottovoce-bench-")))
        workers = _open([(name, runtime) for name in names for runtime in runtimes], threads, scratch, stack, record, say)
        settings = sorted(((b, s) for b in batches for s in seconds), key=lambda at: (at[0] * at[1], at[0]))
        for batch, clip in settings:
            say(f"{batch} x {clip:g} s")
            record["rows"] += _setting(workers, batch, clip, rounds, (names[0], runtimes[0]), record["skipped"], say)
    record["load"].append(_load())
    return record


def check(models: Sequence[str], runtimes: Sequence[str], seconds: Sequence[float], batches: Sequence[int], rounds: int) -> None:
    if not models:
        raise ValueError("name a model, for example: sottovoce bench students/first --vs demo")
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise ValueError(f"no runtime named '{runtime}'{suggestion(runtime, RUNTIMES)} (known: {', '.join(RUNTIMES)})")
    if not (runtimes and seconds and batches and min(seconds) > 0 and min(batches) >= 1 and rounds >= 1):
        raise ValueError("give at least one runtime, one clip length above 0, one batch size of at least 1, and one round")


def distinct(names: Sequence[str]) -> list[str]:
    """The models without repetitions. ValueError if two would have the same name in the record."""
    models = list(dict.fromkeys(names))
    shown = [_short(name) for name in models]
    for name in shown:
        if shown.count(name) > 1:
            raise ValueError(f"two models would be called '{name}'; rename one of the folders")
    return models


def describe(source: str) -> dict[str, Any]:
    """Name, family, parameters and MACs of a model. params and macs_per_s are null if its shape is unknown."""
    loaded = load_pretrained(source)
    entry: dict[str, Any] = {"name": _short(source), "family": loaded.family, "params": None, "macs_per_s": None}
    if loaded.config is not None:
        cost = total(encoder_cost(loaded.config))
        entry |= {"params": int(cost.params), "macs_per_s": float(cost.macs)}
    return entry


def _open(
    keys: Sequence[Key], threads: int, scratch: Path, stack: ExitStack, record: dict[str, Any], say: Say
) -> dict[Key, Worker]:
    """Starts a process for every pair that can run here; adds the others to ``record["skipped"]``."""
    workers: dict[Key, Worker] = {}
    for number, (name, runtime) in enumerate(keys):
        folder = scratch / str(number)
        folder.mkdir()
        try:
            worker = Worker(runtime, RUNTIMES[runtime].prepare(name, folder), threads)
        except Unavailable as problem:
            _skip(record["skipped"], (name, runtime), str(problem), say)
            continue
        stack.callback(worker.close)
        workers[name, runtime] = worker
    return workers


def _setting(
    workers: dict[Key, Worker], batch: int, seconds: float, rounds: int, reference: Key, skipped: list[dict[str, Any]], say: Say
) -> list[dict[str, Any]]:
    """Times one clip on all workers. Removes those that fail from `workers`, because longer clips would fail, too."""
    samples, warm = round(seconds * SAMPLE_RATE), dict[Key, Timing]()
    for key, worker in list(workers.items()):
        try:
            worker.time(batch, samples, 1)  # compiles, allocates
            warm[key] = worker.time(batch, samples, 1)
        except Unavailable as problem:
            workers.pop(key).close()
            _skip(skipped, key, f"{batch} x {seconds:g} s and longer: {problem}", say)

    def turn(worker: Worker) -> Timed:
        return lambda calls: worker.time(batch, samples, calls).seconds

    timed = {key: turn(worker) for key, worker in workers.items()}
    times = in_turns(timed, {key: warm[key].seconds[0] for key in timed}, rounds)
    compared = {key: times.get(reference) if key != reference else None for key in times}
    return [row(key, batch, seconds, times[key], warm[key].peak_mb, compared[key]) for key in times]


def row(
    key: Key, batch: int, seconds: float, rounds: list[list[float]], peak_mb: float, reference: list[list[float]] | None
) -> dict[str, Any]:
    """The record's row for one model, runtime and clip. rounds, reference: seconds of the calls of each round.

    real_time_factor: seconds of computing per second of audio. speedup: the reference's median over this one's, per round.
    """
    calls = [call for turn in rounds for call in turn]
    middle = median(calls)
    speedup = None
    if reference is not None:
        ratios = [median(base) / median(turn) for base, turn in zip(reference, rounds, strict=True)]
        low, high = interval(ratios)
        speedup = {"value": median(ratios), "low": low, "high": high}
    return {
        "model": _short(key[0]),
        "runtime": key[1],
        "batch": batch,
        "seconds": seconds,
        "calls": len(calls),
        "median_ms": 1000 * middle,
        "p95_ms": 1000 * percentile(calls, 0.95),
        "real_time_factor": middle / (batch * seconds),
        "audio_s_per_s": batch * seconds / middle,
        "peak_mb": peak_mb,
        "rounds_ms": [1000 * median(turn) for turn in rounds],
        "speedup": speedup,
    }


def _skip(skipped: list[dict[str, Any]], key: Key, reason: str, say: Say) -> None:
    skipped.append({"model": _short(key[0]), "runtime": key[1], "reason": reason})
    say(f"skipped {_short(key[0])} on {key[1]}: {reason}")


def _short(source: str) -> str:
    """The last part of a folder's path (paths are private), or the hub id."""
    return str(ledger.portable(str(source).rstrip("/"))) or source


def _load() -> float | None:
    """The load average of the last minute, where the system has one."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
