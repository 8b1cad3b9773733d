"""Bootstrap intervals of scores over test items (Efron 1979; groups: Field and Welsh 2007; items of several groups: Davezies,
D'Haultfœuille and Guyonvarch 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

MIN_GROUPS = 8  # fewer groups say too little about how groups differ


def ratio(rows: NDArray[np.float64]) -> float:
    """100 x the sum of column 0 over the sum of column 1: WER from (errors, words), accuracy from (correct, 1). NaN if that is 0."""
    total = rows[:, 1].sum()
    return float(100 * rows[:, 0].sum() / total) if total else float("nan")


def interval(
    rows: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = ratio,
    groups: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of `statistic` by percentile bootstrap; see `resampled`. (NaN, NaN) if no sample has a value."""
    values = resampled(rows, statistic, groups, samples, seed)
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled(
    rows: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = ratio,
    groups: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """`statistic` of `samples` bootstrap samples of the rows. Deterministic for a seed.

    rows: (N, K), one row per item. statistic: maps rows, in any order and number, to a number; samples where it is NaN are left out.

    groups: one name per row, e.g. its speaker; "" is a group of its own. With at least `MIN_GROUPS` groups, whole groups are drawn, since
    items of a speaker are not independent; otherwise single items are drawn, and the interval says nothing about other speakers. If rows
    have tuples of names, as conversations do, names are drawn, and a row counts as often as the product of the counts of its names.
    ValueError when groups and rows do not match.
    """
    items = np.asarray(rows, dtype=float)
    if items.ndim != 2:
        raise ValueError(f"rows must be (items, columns), not of shape {items.shape}")
    if groups is not None and len(groups) != len(items):
        raise ValueError(f"{len(groups)} groups for {len(items)} rows: give one name for each row")
    if not len(items):
        return np.empty(0)
    random = np.random.default_rng(seed)
    values = np.array([statistic(items[chosen]) for chosen in _samples(groups or [""] * len(items), samples, random)])
    return values[~np.isnan(values)]


def _samples(groups: Sequence[str] | Sequence[tuple[str, ...]], samples: int, random: Generator) -> Iterator[NDArray[np.int64]]:
    """The row indices of each sample, with repetitions."""
    several = any(isinstance(group, tuple) for group in groups)
    rows = [group if isinstance(group, tuple) else (group,) for group in groups]
    names = [[(name, 0 if name else i) for name in row or ("",)] for i, row in enumerate(rows)]
    place = {name: i for i, name in enumerate(dict.fromkeys(name for row in names for name in row))}
    member = [[place[name] for name in row] for row in names]
    count, size = len(place), len(groups)
    if count < MIN_GROUPS or (count == size and not several):
        for _ in range(samples):
            yield random.integers(size, size=size)
    elif not several:
        first = np.array([row[0] for row in member])
        parts = np.split(np.argsort(first, kind="stable"), np.cumsum(np.bincount(first))[:-1])
        for _ in range(samples):
            yield np.concatenate([parts[j] for j in random.integers(count, size=count)])
    else:
        wide = max(map(len, member))
        table = np.array([row + [count] * (wide - len(row)) for row in member])  # the last column of counts is always 1
        for _ in range(samples):
            drawn = np.append(np.bincount(random.integers(count, size=count), minlength=count), 1)
            yield np.repeat(np.arange(size), drawn[table].prod(axis=1))
