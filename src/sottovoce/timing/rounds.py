"""Timing many things in turns, so that whatever else the machine does hits all of them alike; and what to say of the times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

TURN = 0.2  # seconds that a turn takes, about: fast things are called more than once
MOST = 50  # calls in a turn

SHORT = 0.05  # seconds of a turn where there are hundreds of things to time

Timed = Callable[[int], list[float]]  # number of calls -> seconds of each
Clock = Callable[[], float]


def in_turns(timed: Mapping[K, Timed], about: Mapping[K, float], rounds: int, turn: float = TURN) -> dict[K, list[list[float]]]:
    """Key -> for each round, the seconds of each call. The order of turns moves on from round to round.

    about: seconds that a call takes; as many calls are made in a turn as fill `turn` seconds. What raises ends the whole.
    """
    keys, made = list(timed), {key: list[list[float]]() for key in timed}
    for number in range(rounds):
        start = number % max(1, len(keys))
        for key in keys[start:] + keys[:start]:
            made[key].append(timed[key](max(1, min(MOST, round(turn / max(about[key], 1e-9))))))
    return made


def median_ms(runs: Mapping[K, Callable[[], object]], rounds: int, clock: Clock = time.perf_counter) -> dict[K, float]:
    """Milliseconds of each of many short things, timed in turns: the median over rounds of the median call."""
    timed = {key: partial(_calls, clock, run) for key, run in runs.items()}
    found = in_turns(timed, {key: calls(2)[-1] for key, calls in timed.items()}, rounds, SHORT)
    return {key: 1000 * median([median(calls) for calls in row]) for key, row in found.items()}


def _calls(clock: Clock, run: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of so many calls."""
    made = []
    for _ in range(count):
        began = clock()
        run()
        made.append(clock() - began)
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours: of 2 values, the 0.95 percentile lies at 95 % of the way."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    return ordered[below] + (at - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, from the order of the values alone (sign test): at least 95 % for 6 values or more; lowest to highest of fewer."""
    ordered, count = sorted(values), len(values)
    outside, cut = 2 * 0.5**count, 0  # chance that the median is below all values, or above; how many to drop at each end
    while True:
        outside += 2 * math.comb(count, cut + 1) * 0.5**count
        if outside > 0.05 or 2 * (cut + 1) >= count:
            return ordered[cut], ordered[count - 1 - cut]
        cut += 1
