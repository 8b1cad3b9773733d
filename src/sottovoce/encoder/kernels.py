"""Chooses the faster of two libraries for a computation on this CPU, by timing both once.

The choice affects the last bits of a result, so it must not change between two runs on one machine. It is made once per machine (processor,
instruction set, release of PyTorch, number of threads) and stored in ``kernels.jsonl`` in the cache folder; the first line per computation
counts. A training run also stores its choices in its own folder and follows them when it is resumed (`keep_in`). Delete the file to time
again. ``SOTTOVOCE_KERNELS=onednn`` or ``torch`` sets one library for everything.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sottovoce.core.cache import cache_home

LIBRARIES = ("onednn", "torch")
EVERY = "*"  # in a run's file: the library that SOTTOVOCE_KERNELS set for all computations
MARGIN = 0.95  # oneDNN is chosen if it takes less than this share of the other's time
ROUNDS, LEAST, SECONDS = 20, 4, 0.1  # ROUNDS rounds, or fewer (at least LEAST) if they take longer than SECONDS

# library -> the computation; its argument enlarges the input a little, so that every call has a new size
Candidates = Mapping[str, Callable[[int], object]]

_lock = threading.Lock()
_chosen: dict[tuple[str, str], str] = {}  # (machine, computation) -> library
_run: Path | None = None


def choose(computation: str, candidates: Callable[[], Candidates]) -> str:
    """The library for `computation` (a name with sizes): ``"onednn"`` or ``"torch"``.

    candidates: called only if the choice is not known yet. ValueError if ``SOTTOVOCE_KERNELS`` has an unknown value.
    """
    if (library := fixed()) is not None:
        return library
    key = machine(), computation
    if key not in _chosen:
        with _lock:
            if key not in _chosen:
                _chosen[key] = _look_up(*key, candidates)
    return _chosen[key]


def fixed() -> str | None:
    """The library that ``SOTTOVOCE_KERNELS`` names; ``None``: timing decides."""
    named = os.environ.get("SOTTOVOCE_KERNELS", "auto")
    if named not in (*LIBRARIES, "auto"):
        raise ValueError(f"SOTTOVOCE_KERNELS is '{named}'; set it to onednn, torch or auto")
    return None if named == "auto" else named


def choices() -> dict[str, str]:
    """The known choices for this machine and the current number of threads: computation -> library."""
    if (library := fixed()) is not None:
        return {EVERY: library}
    return {**_read(_cache(), machine()), **_read(_run, machine())}


def keep_in(path: Path | None) -> None:
    """Makes `choose` look in the file `path` first and add new choices to it. ``None``: only the cache folder."""
    global _run
    with _lock:
        _run = path
        _chosen.clear()
        if path is not None and not path.exists() and (library := fixed()) is not None:
            _add(path, machine(), EVERY, library)


def machine() -> str:
    """Identifies the machine that a choice is for."""
    return _machine(torch.get_num_threads())


@functools.cache
def _machine(threads: int) -> str:
    limits = [f"{name}={os.environ[name]}" for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS") if name in os.environ]
    parts = _processor(), torch.backends.cpu.get_cpu_capability(), *limits, f"torch {torch.__version__}", f"{threads} threads"
    return ", ".join(parts)


def _processor() -> str:
    """Model name, family, model and stepping, because different processors may share a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [fields[name] for name in ("model name", "cpu family", "model", "stepping") if name in fields]
    return " ".join(known) or platform.processor() or platform.machine()


def _cache() -> Path:
    return cache_home() / "kernels.jsonl"


def _look_up(here: str, computation: str, candidates: Callable[[], Candidates]) -> str:
    """The choice from the run's file, else from the cache, else by timing; then stored in both."""
    stored = _read(_run, here)
    library = stored.get(EVERY) or stored.get(computation)
    if library is None:
        library = _read(_cache(), here).get(computation)
        if library is None:
            times = _time(candidates)
            library = "onednn" if times["onednn"] < MARGIN * times["torch"] else "torch"
            _add(_cache(), here, computation, library, times)
            library = _read(_cache(), here).get(computation, library)  # another process may have been first
        _add(_run, here, computation, library)
    return library


def _read(path: Path | None, here: str) -> dict[str, str]:
    """The choices in a file for the machine `here`: computation -> library. The first line for a computation counts."""
    libraries: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    except OSError:
        return libraries
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["machine"] == here and entry["library"] in LIBRARIES:
                libraries.setdefault(entry["computation"], entry["library"])
        except (ValueError, TypeError, KeyError):  # an unfinished line
            continue
    return libraries


def _add(path: Path | None, here: str, computation: str, library: str, times: Mapping[str, float] | None = None) -> None:
    """Appends a line, in one write. If the folder is not writable, the choice only holds for this process."""
    if path is None:
        return
    entry: dict[str, object] = {"machine": here, "computation": computation, "library": library}
    if times:
        entry["ms"] = {name: round(1000 * seconds, 4) for name, seconds in times.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")
    except OSError:
        return


def _time(candidates: Callable[[], Candidates]) -> dict[str, float]:
    """The shortest time of each candidate in seconds, timed in turns; infinite if this build cannot compute it.

    Runs in its own thread, where the caller's modes (inference, autocast, counting, tracing) do not apply.
    """
    times = dict.fromkeys(LIBRARIES, float("inf"))

    def run() -> None:
        computations = candidates()
        begin = time.perf_counter()
        for turn in range(ROUNDS + 1):
            for name, compute in computations.items():
                start = time.perf_counter()
                try:
                    compute(turn)
                except RuntimeError:
                    continue
                if turn:  # the first one warms up
                    times[name] = min(times[name], time.perf_counter() - start)
            if turn >= LEAST and time.perf_counter() - begin > SECONDS:
                break

    thread = threading.Thread(target=run, name="sottovoce-kernels")
    thread.start()
    thread.join()
    return times
