"""Worker processes: none outlives the process that started it, however that ends."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from multiprocessing.process import BaseProcess

PR_SET_PDEATHSIG = 1  # of Linux's prctl
LOOK = 1.0  # seconds between two looks for the parent
PATIENCE = 10.0  # seconds that a process has to end in an orderly way after it was asked twice

_ours: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def start(parent: int, in_main_thread: bool = True) -> None:
    """To be called first in a worker. parent: the process that started it; in_main_thread: whether its main thread did.

    The worker ends when its parent does, by kill -9 too, even while it hangs in a library. Signals that ask to stop (Ctrl-C in the
    terminal, a scheduler's to all processes) are for the parent alone, which saves its state and then ends its workers with `end`.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        with contextlib.suppress(OSError):  # the leader of a session has a group of its own already
            os.setpgrp()
    if (
        sys.platform == "linux" and in_main_thread
    ):  # the system takes the end of the thread that started a process for its parent's
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def own(processes: Iterable[BaseProcess]) -> None:
    """Workers of this process that are to end when it does, also those that hang."""
    if not _ours:
        atexit.register(lambda: end(list(_ours)))  # runs before multiprocessing waits for them
    _ours.update(processes)


def end(processes: Iterable[BaseProcess]) -> None:
    """Ends workers at once."""
    for process in processes:
        with contextlib.suppress(ValueError):  # closed
            if process.is_alive():
                process.kill()


def end_soon() -> None:
    """Ends this process after `PATIENCE`, if it still runs then: something in it hangs."""
    timer = threading.Timer(PATIENCE, os._exit, (130,))
    timer.daemon = True
    timer.start()
