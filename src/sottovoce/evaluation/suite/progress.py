"""Progress of an evaluation: the present step and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

STAGES = ("features", "training", "scoring")
REPORT_SECONDS = 0.2  # seconds between two reports on a stage
SHARE = 0.5  # assumed time of a stage that has not begun, as a share of the stages before it
UNITS = {"features": "recordings"}


@dataclass(frozen=True)
class State:
    """What is shown. text: the present step. share: done part of the command, 0 to 1. left: estimated seconds until the end, or None."""

    text: str
    share: float
    left: float | None


Watch = Callable[[State], None]


@dataclass
class Running:
    """A pair in work. since: start of its stage, which is the last report of the stage before. reported: time of the last report."""

    began: float
    stage: str = ""
    since: float = 0.0
    reported: float | None = None
    done: float = 0.0
    total: float = 0.0

    def moved(self, stage: str, done: float, total: float, now: float) -> None:
        if stage != self.stage:
            self.stage, self.since = stage, self.began if self.reported is None else self.reported
        self.done, self.total, self.reported = done, total, now

    def left(self, now: float) -> float | None:
        """Estimated seconds until the pair is done, from the speed of its stage; a later stage takes a share of those before."""
        if not self.stage or self.done <= 0:
            return None
        rest = (now - self.since) * max(0.0, self.total - self.done) / self.done
        later = STAGES[STAGES.index(self.stage) + 1 :] if self.stage in STAGES else ()
        if self.stage == "features" and "training" in later:
            rest += SHARE * (now - self.since + rest)
        return rest


class Course:
    """Progress of all pairs of a command. watch: called with each new `State`.

    names: (name, kind) of each pair; pairs of a kind take a similar time. lanes: pairs in work at a time.
    """

    def __init__(self, watch: Watch, clock: Callable[[], float] = time.monotonic) -> None:
        self.watch, self.clock = watch, clock
        self.names: list[tuple[str, str]] = []
        self.running: dict[int, Running] = {}
        self.finished: dict[int, float] = {}
        self.lanes = 1
        self.shown = float("-inf")

    def preparing(self, text: str) -> None:
        """Reports a step before the first pair."""
        self.watch(State(text, 0.0, None))

    def begin(self, names: list[tuple[str, str]], lanes: int) -> None:
        """Sets the pairs, and how many are in work at a time."""
        self.names, self.lanes = names, max(1, lanes)

    def start(self, number: int) -> None:
        self.running[number] = Running(self.clock())
        self._tell(number)

    def moved(self, number: int, stage: str, done: float, total: float) -> None:
        if number in self.finished:
            return
        now = self.clock()
        self.running.setdefault(number, Running(now)).moved(stage, done, total, now)
        if now - self.shown >= REPORT_SECONDS:  # a probe makes thousands of updates a second
            self.shown = now
            self._tell(number)

    def end(self, number: int) -> None:
        began = self.running.pop(number, None)
        self.finished[number] = 0.0 if began is None else self.clock() - began.began
        self._tell(None)

    def left(self) -> float | None:
        """Estimated seconds until all pairs are done."""
        now = self.clock()
        running = {number: each.left(now) for number, each in self.running.items()}
        estimates = {number: now - self.running[number].began + rest for number, rest in running.items() if rest is not None}
        lengths = {**self.finished, **estimates}
        if not lengths:
            return None
        of_kind: dict[str, list[float]] = {}
        for number, seconds in lengths.items():
            of_kind.setdefault(self.names[number][1], []).append(seconds)
        means = {kind: fmean(lengths_of_kind) for kind, lengths_of_kind in of_kind.items()}
        anything, total = fmean(lengths.values()), 0.0
        for number, (_, kind) in enumerate(self.names):
            if number in self.finished:
                continue
            usual, rest = means.get(kind, anything), running.get(number)
            if number in self.running and rest is None:
                rest = max(0.0, usual - (now - self.running[number].began))
            total += usual if rest is None else rest
        return total / min(self.lanes, max(1, len(self.names) - len(self.finished)))

    def share(self) -> float:
        """The done part of all pairs, 0 to 1."""
        now, parts = self.clock(), float(len(self.finished))
        for each in self.running.values():
            rest = each.left(now)
            if rest is not None and now > each.began:
                parts += (now - each.began) / (now - each.began + rest)
        return min(1.0, parts / max(1, len(self.names)))

    def _tell(self, number: int | None) -> None:
        text = f"{len(self.finished)} of {len(self.names)} done"
        if number is not None:
            text = f"{number + 1} of {len(self.names)}, {self.names[number][0]}"
            each = self.running[number]
            if each.stage:
                text += f": {each.stage} {each.done:,.0f} of {each.total:,.0f} {UNITS.get(each.stage, '')}".rstrip()
        self.watch(State(text, self.share(), self.left()))
