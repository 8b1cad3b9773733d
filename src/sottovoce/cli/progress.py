"""How far a command is, on a terminal as a bar that moves, elsewhere as plain lines now and then. All of it goes to stderr."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, TextIO

FIRST, EVERY = 5.0, 15.0  # seconds until the first plain line, and between two of them


class Display:
    """A context in which `show` may be called as often as one likes, from any thread. quiet: nothing is shown.

    Elsewhere than on a terminal a line comes at most every 15 seconds, by a thread of its own, so that it comes while the command is busy.
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
            self._bar = self._made_bar()
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
        """text: what is done now. share: 0 to 1 of the command. left: seconds until its end, where they are known."""
        with self._lock:
            self._text, self._left = text, left
        if self._bar is not None:
            self._bar.update(0, description=text, completed=share, ahead=ahead(left))

    def line(self) -> str:
        """What stands now, as plain text."""
        with self._lock:
            text, left = self._text, self._left
        return f"{self.name}: {text}  [{duration(time.monotonic() - self.began)} so far, {ahead(left)}]"

    def _lines(self) -> None:
        wait = FIRST
        while not self._stop.wait(wait):
            print(self.line(), file=self.stream, flush=True)
            wait = EVERY

    def _made_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[ahead]}", markup=False),
            console=Console(file=self.stream),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed would go to the terminal and not where it was sent
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
