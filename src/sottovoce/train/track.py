"""Progress of a run: a progress line, and a journal in JSON lines and TensorBoard events."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from sottovoce.core.ledger import write_atomically
from sottovoce.core.types import Loss
from sottovoce.train.dist import World

console = Console(stderr=True)
FIRST = 5.0  # seconds until the first plain line of a stage


def say(text: str) -> None:
    """Prints one line on stderr."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """'2 h 05 min', '3 min 20 s' or '12 s'."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


class Meter:
    """Progress of one stage: a live line on a terminal, plain lines elsewhere, after `FIRST` seconds and then every `every` seconds.

    later: updates of the stages that follow. The time left is that of the whole run, if their updates take as long as these.
    """

    def __init__(self, name: str, total: int, start: int = 0, later: int = 0, every: float = 15.0) -> None:
        self.name, self.total, self.first, self.later, self.every = name, total, start, later, every
        self.began = time.monotonic()
        self.spoke = self.began + FIRST - every
        self.live: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.live = Progress(*columns, console=console)
            self.task = self.live.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> Meter:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, step: int, note: str = "") -> None:
        now = time.monotonic()
        done = step - self.first
        left = (now - self.began) / done * (self.total - step + self.later) if done > 0 else 0.0
        note = f"{duration(left)} left  {note}"
        if self.live is not None:
            self.live.update(self.task, completed=step, note=note)
        elif now - self.spoke >= self.every or step == self.total:
            self.spoke = now
            say(f"{self.name}: {step}/{self.total}  {note}")


def occasionally(report: Callable[[int, int], None], seconds: float = 10.0) -> Callable[[int, int], None]:
    """A function of (done, total) that calls `report` at most once in `seconds`, and first after `seconds`."""
    spoke = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal spoke
        if time.monotonic() - spoke >= seconds:
            spoke = time.monotonic()
            report(done, total)

    return progress


class Tally:
    """Sums of losses and seconds over the updates since the last logged row."""

    def __init__(self, world: World) -> None:
        self.world, self.updates, self.began = world, 0, time.monotonic()
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=world.device))
        self._seconds = 0.0

    def add(self, total: Tensor, losses: Mapping[str, Loss], denominators: Tensor, seconds: float) -> None:
        """Adds a micro-batch. total: its part of the loss. denominators: (objectives,), of the whole update. seconds: of audio."""
        self._sums["loss"] += total
        for i, (label, loss) in enumerate(losses.items()):
            for key, value in loss.logs.items():
                self._sums[key if len(losses) == 1 else f"{label}/{key}"] += value / denominators[i]
        self._seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        """This process's sums, so that a resumed run logs the same values as an undisturbed one."""
        return {"updates": self.updates, "sums": {key: value.cpu() for key, value in self._sums.items()}}

    def load_state_dict(self, updates: int, states: Sequence[Mapping[str, Any]]) -> None:
        """Goes on from the sums of these processes (other ones, when there were more; none, when there were fewer)."""
        self.updates = int(updates)
        for state in states:
            for key, value in state["sums"].items():
                self._sums[key] += value.to(self.world.device)

    def means(self) -> dict[str, float]:
        """Means per update, over all processes."""
        return {key: float(self.world.sum(value)) / self.updates for key, value in self._sums.items()}

    def audio_per_s(self) -> float:
        """Seconds of audio per second of training, over all processes."""
        took = time.monotonic() - self.began
        return float(self.world.sum(torch.tensor(self._seconds, device=self.world.device))) / took


class Journal:
    """run/metrics.jsonl, and TensorBoard events if tensorboard is installed.

    The JSON of a finished stage and the checkpoints hold the rows, too, so that a damaged or emptied file is written again (`settle`).
    """

    def __init__(self, folder: Path, main: bool = True) -> None:
        self.path, self.main = folder / "metrics.jsonl", main
        self.rows: dict[str, list[str]] = {}  # of each stage, as JSON; in the main process only
        self.board: Any = None
        if not main:  # one process writes
            return
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))
        except ImportError:
            pass

    def settle(self, stages: Mapping[str, Sequence[str] | None]) -> None:
        """Makes the file hold the rows of these stages, in this order, and no others; says how many had been lost. ``None`` stands for the
        rows that the file has of a stage."""
        if not self.main:
            return
        found, damaged = self._read()
        self.rows = {stage: list(found.get(stage, ()) if rows is None else rows) for stage, rows in stages.items()}
        restored = sum(len(set(rows or ()) - set(found.get(stage, ()))) for stage, rows in stages.items())
        if restored:
            say(f"{self.path}: {restored} rows were damaged or missing and are written again")
        elif damaged:
            say(f"{damaged} damaged lines of {self.path} are left out")
        if found or any(self.rows.values()) or damaged:
            write_atomically(self.path, "".join(row + "\n" for rows in self.rows.values() for row in rows))

    def _read(self) -> tuple[dict[str, list[str]], int]:
        """The rows of each stage in the file, and the number of damaged lines."""
        found: dict[str, list[str]] = defaultdict(list)
        damaged = 0
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                found[str(row.get("stage"))].append(line)
            else:
                damaged += number < len(lines) or not line.startswith("{")  # the last one may have been cut off by a kill
        return found, damaged

    def until(self, stage: str, step: int) -> list[str]:
        """The rows of `stage` up to an update. A killed run may have written others after its last checkpoint."""
        return [row for row in self._read()[0].get(stage, ()) if json.loads(row).get("step", 0) <= step]

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if not self.main or not values:
            return
        numbers = {key: float(f"{value:.6g}") if math.isfinite(value) else None for key, value in values.items()}
        row = {"stage": stage, "step": step, **numbers}  # JSON knows no NaN
        self.rows.setdefault(stage, []).append(json.dumps(row))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.rows[stage][-1] + "\n")
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(f"{stage}/{key}", value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        sys.stderr.flush()
