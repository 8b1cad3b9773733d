"""How far a score depends on which items it was measured on (Efron 1979; for groups Field and Welsh 2007)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_GROUPS = 8  # fewer, drawn with replacement, say too little about how groups differ


def ratio(rows: NDArray[np.float64]) -> float:
    """100 x the sum of column 0 over the sum of column 1: WER from (errors, words), accuracy from (right, 1). NaN over nothing."""
    total = rows[:, 1].sum()
    return float(100 * rows[:, 0].sum() / total) if total else float("nan")


def interval(
    rows: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] = ratio,
    groups: Sequence[str] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of `statistic` by percentile bootstrap: the same call gives the same interval.

    rows: (N, K), one row per item. statistic: from rows in any order and number to one number; a sample for which it is NaN is left
    out, and (NaN, NaN) comes back when that happens to all.

    groups: one name per row, the speaker for instance; a row without a name is a group of its own. With at least `MIN_GROUPS` of them
    whole groups are drawn, since items of one speaker are not independent; with fewer, or without, single items are drawn, and the
    interval says nothing about other speakers. ValueError when groups and rows do not match.
    """
    items = np.asarray(rows, dtype=float)
    if items.ndim != 2:
        raise ValueError(f"rows must be (items, columns), not of shape {items.shape}")
    if groups is not None and len(groups) != len(items):
        raise ValueError(f"{len(groups)} groups for {len(items)} rows: give one name for each row")
    if not len(items):
        return float("nan"), float("nan")
    names = [(name, 0 if name else i) for i, name in enumerate(groups if groups is not None else [""] * len(items))]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    member = np.array([place[name] for name in names])
    counts = np.bincount(member)
    random = np.random.default_rng(seed)
    values = np.empty(samples)
    if len(counts) < MIN_GROUPS or len(counts) == len(items):
        for i in range(samples):
            values[i] = statistic(items[random.integers(len(items), size=len(items))])
    else:
        parts = np.split(items[np.argsort(member, kind="stable")], np.cumsum(counts)[:-1])
        for i in range(samples):
            values[i] = statistic(np.concatenate([parts[j] for j in random.integers(len(parts), size=len(parts))]))
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
