"""How far a command is: a moving bar on a terminal, plain lines elsewhere. Both go to stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

FIRST, EVERY = 5.0, 15.0  # seconds until the first plain line, and between two of them


class Display:
    """A context manager that shows how far a command is. `show` may be called at any rate and from any thread. quiet: shows nothing.

    Without a terminal, a thread prints a line after 5 seconds and then every 15, so that lines come while the command is busy.
    """

    def __init__(self, name: str, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.name, self.quiet, self.stream = name, quiet, stream or sys.stderr
        self.began = time.monotonic()
        self._text = "starting"
        self._left: float | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._bar: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Display:
        if self.quiet:
            return self
        if self.stream.isatty():
            self._bar = self._new_bar()
            self._bar.start()
        else:
            self._thread = threading.Thread(target=self._lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def show(self, text: str, share: float = 0.0, left: float | None = None) -> None:
        """Sets what is shown. text: the step at work. share: 0 to 1 of the command. left: seconds until its end, if known."""
        with self._lock:
            self._text, self._left = text, left
        if self._bar is not None:
            self._bar.update(0, description=text, completed=share, ahead=ahead(left))

    def say(self, as_json: bool = False) -> Callable[[str], None]:
        """A function that shows a text and prints it as a line: to stdout, or with `as_json` to stderr; nowhere if quiet."""

        def say(text: str) -> None:
            self.show(text)
            if not self.quiet:
                print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

        return say

    def line(self) -> str:
        """The present state as a plain line."""
        with self._lock:
            text, left = self._text, self._left
        return f"{self.name}: {text}  [{duration(time.monotonic() - self.began)} so far, {ahead(left)}]"

    def _lines(self) -> None:
        wait = FIRST
        while not self._stop.wait(wait):
            print(self.line(), file=self.stream, flush=True)
            wait = EVERY

    def _new_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[ahead]}", markup=False),
            console=Console(file=self.stream),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a redirected stdout must stay redirected
            redirect_stderr=True,
        )
        bar.add_task(self._text, total=1.0, ahead="")
        return bar


def ahead(left: float | None) -> str:
    """The time left, in words."""
    return "time left not known yet" if left is None else f"about {duration(left)} left"


def duration(seconds: float) -> str:
    """``8 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
