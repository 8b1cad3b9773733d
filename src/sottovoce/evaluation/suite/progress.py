"""How far an evaluation is: what it does now, and how long all that is left takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

STAGES = ("features", "training", "scoring")
OFTEN = 0.2  # seconds between two words on how far a stage is
SHARE = 0.5  # of the stages before it, for a stage of which nothing is known yet
UNITS = {"features": "recordings"}


@dataclass(frozen=True)
class State:
    """What is shown. text: what is done now. share: of the whole command that is done, 0 to 1. left: seconds until all is done; None
    while nothing is known."""

    text: str
    share: float
    left: float | None


Watch = Callable[[State], None]


@dataclass
class Running:
    """A pair that is being measured. since: when its stage began, which is when the one before was heard of last."""

    began: float
    stage: str = ""
    since: float = 0.0
    heard: float | None = None
    done: float = 0.0
    total: float = 0.0

    def moved(self, stage: str, done: float, total: float, now: float) -> None:
        if stage != self.stage:
            self.stage, self.since = stage, self.began if self.heard is None else self.heard
        self.done, self.total, self.heard = done, total, now

    def left(self, now: float) -> float | None:
        """Seconds that the pair still takes: the stage goes on as fast as it went, later stages take a share of those before."""
        if not self.stage or self.done <= 0:
            return None
        here = (now - self.since) * max(0.0, self.total - self.done) / self.done
        later = STAGES[STAGES.index(self.stage) + 1 :] if self.stage in STAGES else ()
        if self.stage == "features" and "training" in later:
            here += SHARE * (now - self.since + here)
        return here


class Course:
    """All pairs of a command, several of them at a time perhaps. watch: told whenever something has moved.

    names: of the pairs, as (what it is called, what pairs of like length have in common).
    """

    def __init__(self, watch: Watch, clock: Callable[[], float] = time.monotonic) -> None:
        self.watch, self.clock = watch, clock
        self.names: list[tuple[str, str]] = []
        self.running: dict[int, Running] = {}
        self.finished: dict[int, float] = {}
        self.lanes = 1
        self.told = float("-inf")

    def preparing(self, text: str) -> None:
        """Something that comes before the first pair."""
        self.watch(State(text, 0.0, None))

    def begin(self, names: list[tuple[str, str]], lanes: int) -> None:
        """The pairs are known. lanes: how many are measured at a time."""
        self.names, self.lanes = names, max(1, lanes)

    def start(self, number: int) -> None:
        self.running[number] = Running(self.clock())
        self._tell(number)

    def moved(self, number: int, stage: str, done: float, total: float) -> None:
        if number in self.finished:
            return
        now = self.clock()
        self.running.setdefault(number, Running(now)).moved(stage, done, total, now)
        if now - self.told >= OFTEN:  # a probe makes thousands of updates a second
            self.told = now
            self._tell(number)

    def end(self, number: int) -> None:
        began = self.running.pop(number, None)
        self.finished[number] = 0.0 if began is None else self.clock() - began.began
        self._tell(None)

    def left(self) -> float | None:
        """Seconds until all pairs are done."""
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
        """Of all pairs, counting the parts of those that are running."""
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
