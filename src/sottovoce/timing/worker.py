"""One model on one runtime, in a process of its own: its peak of memory is nobody else's, and it dies alone."""

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
    """seconds: of each call. peak_mb: of the process's memory (resident, 10^6 bytes) while they ran."""

    seconds: list[float]
    peak_mb: float


class Worker:
    """The handle on such a process. `close` ends it."""

    def __init__(self, runtime: str, at: str, threads: int) -> None:
        """`at`: what the runtime's `prepare` gave. Unavailable when the model cannot be opened."""
        context = get_context("spawn")  # a forked process would share memory with this one, and torch's threads do not survive it
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, runtime, at, threads), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def time(self, batch: int, samples: int, calls: int) -> Timing:
        """`calls` forward passes over `batch` clips of `samples`, one after the other. Unavailable when they fail."""
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
        self.connection.close()  # it ends when nobody is there to ask
        self.process.join(timeout=5)
        self.process.terminate()
        self.process.join()


def serve(connection: Connection, runtime: str, at: str, threads: int) -> None:
    """What the process does: opens the model, then answers until nobody asks any more."""
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
    """From here on `peak_mb` counts anew, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The most memory that this process has held at a time, in 10^6 bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
