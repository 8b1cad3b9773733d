"""Runs one model on one runtime in its own process, so that its peak memory is measured alone and a crash stops only itself."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from sottovoce.timing.runtimes import RUNTIMES, Unavailable


@dataclass(frozen=True)
class Timing:
    """seconds: of each call. peak_mb: the process's peak resident memory during the calls, in 10^6 bytes."""

    seconds: list[float]
    peak_mb: float


class Worker:
    """Starts and controls such a process. `close` ends it."""

    def __init__(self, runtime: str, at: str, threads: int) -> None:
        """at: the result of the runtime's `prepare`. Unavailable if the model cannot be opened."""
        context = get_context(
            "spawn"
        )  # a forked process would share memory with this one, and torch's threads do not survive a fork
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, runtime, at, threads), daemon=True)
        self.process.start()
        other_end.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def time(self, batch: int, samples: int, calls: int) -> Timing:
        """Times `calls` forward passes over `batch` clips of `samples`. Unavailable if they fail."""
        with contextlib.suppress(BrokenPipeError):
            self.connection.send((batch, samples, calls))
        answer = self._answer()
        assert isinstance(answer, Timing)
        return answer

    def _answer(self) -> object:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            raise Unavailable(f"its process ended with status {code}" + (" (out of memory?)" if code == -9 else "")) from None
        if isinstance(answer, str):
            raise Unavailable(answer)
        return answer

    def close(self) -> None:
        self.connection.close()  # ends the process's loop
        self.process.join(timeout=5)
        self.process.terminate()
        self.process.join()


def serve(connection: Connection, runtime: str, at: str, threads: int) -> None:
    """The process's main function: opens the model, then answers requests until the connection closes."""
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        try:
            forward = RUNTIMES[runtime].open(at, threads)
            connection.send(None)
            while True:
                connection.send(_timed(forward, *connection.recv()))
        except (EOFError, BrokenPipeError):
            raise
        except Exception as problem:
            text = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
            connection.send(f"{type(problem).__name__}: {text}")


def _timed(forward: object, batch: int, samples: int, calls: int) -> Timing:
    import numpy as np

    assert callable(forward)
    wave = np.random.default_rng(0).standard_normal((batch, samples), dtype=np.float32)
    forget_peak()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        forward(wave)
        seconds.append(time.perf_counter() - began)
    return Timing(seconds, peak_mb())


def forget_peak() -> None:
    """Resets `peak_mb`, on systems that can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The peak resident memory of this process, in 10^6 bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
