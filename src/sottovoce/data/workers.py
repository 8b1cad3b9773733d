"""Ensures that worker processes end with the process that started them, however it ends."""

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
LOOK = 1.0  # seconds between two checks of the parent
PATIENCE = 10.0  # seconds that a process has for an orderly end after the second request

_ours: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def start(parent: int, in_main_thread: bool = True) -> None:
    """Set up a worker; call it first. parent: id of the process that started it. in_main_thread: whether its main thread did.

    The worker ends with its parent, even after kill -9 or while it hangs in a library. It ignores signals that ask to stop (Ctrl-C, a
    scheduler's): the parent saves its state and then ends its workers with `end`.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        with contextlib.suppress(OSError):  # a session leader already has its own group
            os.setpgrp()
    if sys.platform == "linux" and in_main_thread:  # Linux sends the signal when the starting thread ends
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the request
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def own(processes: Iterable[BaseProcess]) -> None:
    """Register workers to be ended when this process ends, even if they hang."""
    if not _ours:
        atexit.register(lambda: end(list(_ours)))  # runs before multiprocessing waits for the workers
    _ours.update(processes)


def end(processes: Iterable[BaseProcess]) -> None:
    """Kill workers at once."""
    for process in processes:
        with contextlib.suppress(ValueError):  # closed
            if process.is_alive():
                process.kill()


def end_soon() -> None:
    """End this process after `PATIENCE` seconds if it still runs, because something hangs."""
    timer = threading.Timer(PATIENCE, os._exit, (130,))
    timer.daemon = True
    timer.start()
