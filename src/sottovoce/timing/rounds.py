"""Times several functions in turns, so that other load on the machine affects all alike. Statistics of the times."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

TURN = 0.2  # seconds per turn, about: fast functions are called several times
MOST = 50  # most calls per turn
SHORT = 0.05  # seconds per turn if there are hundreds of functions

Timed = Callable[[int], list[float]]  # number of calls -> seconds of each
Clock = Callable[[], float]


def in_turns(timed: Mapping[K, Timed], about: Mapping[K, float], rounds: int, turn: float = TURN) -> dict[K, list[list[float]]]:
    """Times every function once per round: key -> for each round, the seconds of each call. Every round starts with the next key.

    about: expected seconds per call, by key; sets how many calls fill a turn of `turn` seconds. Exceptions are not caught.
    """
    keys, times = list(timed), {key: list[list[float]]() for key in timed}
    for number in range(rounds):
        start = number % max(1, len(keys))
        for key in keys[start:] + keys[:start]:
            times[key].append(timed[key](max(1, min(MOST, round(turn / max(about[key], 1e-9))))))
    return times


def median_ms(runs: Mapping[K, Callable[[], object]], rounds: int, clock: Clock = time.perf_counter) -> dict[K, float]:
    """Milliseconds of each of many short functions, timed in turns: the median over rounds of the median call."""
    timed = {key: partial(_calls, clock, run) for key, run in runs.items()}
    times = in_turns(timed, {key: calls(2)[-1] for key, calls in timed.items()}, rounds, SHORT)
    return {key: 1000 * median([median(calls) for calls in row]) for key, row in times.items()}


def _calls(clock: Clock, run: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    times = []
    for _ in range(count):
        start = clock()
        run()
        times.append(clock() - start)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile `share` (0 to 1), interpolated linearly: of 2 values, the 0.95 percentile lies at 95 % of the way."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    return ordered[below] + (at - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Confidence interval of the median by the sign test: at least 95 % for 6 values or more; lowest to highest for fewer."""
    ordered, count = sorted(values), len(values)
    outside, cut = 2 * 0.5**count, 0  # probability that the median is outside all values; values to drop at each end
    while True:
        outside += 2 * math.comb(count, cut + 1) * 0.5**count
        if outside > 0.05 or 2 * (cut + 1) >= count:
            return ordered[cut], ordered[count - 1 - cut]
        cut += 1
