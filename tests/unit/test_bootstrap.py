"""Intervals: they cover the truth as often as they say, groups widen them, and the same call gives the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sottovoce.evaluation.statistics.bootstrap import MIN_GROUPS, interval, ratio


def test_ratio_is_a_rate_in_percent() -> None:
    assert ratio(np.array([[1.0, 10.0], [2.0, 2.0]])) == 25
    assert math.isnan(ratio(np.zeros((3, 2))))


def test_the_truth_is_covered_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        words = random.integers(5, 30, 150)
        errors = random.binomial(words, 0.1)  # a word error rate of 10 %
        low, high = interval(np.stack([errors, words], axis=1), ratio, samples=300, seed=repeat)
        covered += low <= 10 <= high
    assert 0.90 * 200 <= covered <= 0.99 * 200


def test_groups_are_covered_too_and_single_items_would_not_be() -> None:
    random = np.random.default_rng(1)
    covered = alone = 0
    for repeat in range(100):
        rates = random.beta(2, 18, 30)  # speakers differ: 10 % on average
        errors = random.binomial(20, np.repeat(rates, 10))
        rows = np.stack([errors, np.full(300, 20)], axis=1)
        speakers = [f"speaker {i}" for i in range(30) for _ in range(10)]
        low, high = interval(rows, ratio, speakers, samples=200, seed=repeat)
        covered += low <= 10 <= high
        low, high = interval(rows, ratio, samples=200, seed=repeat)
        alone += low <= 10 <= high
    assert covered >= 85
    assert alone <= 70


def test_items_of_several_groups_are_covered_and_would_not_be_by_their_pairs() -> None:
    """Conversations of two out of fourteen people: a person who is hard to tell apart is in several."""
    covered = by_pair = 0
    for repeat in range(100):
        random = np.random.default_rng(repeat)
        hard = random.beta(2, 8, 14)  # 20 % on average
        who = [tuple(f"speaker {i}" for i in random.choice(14, 2, replace=False)) for _ in range(40)]
        errors = random.binomial(400, [np.mean([hard[int(name.split()[1])] for name in pair]) for pair in who])
        items = np.stack([errors, np.full(40, 400)], axis=1)
        low, high = interval(items, ratio, who, samples=200, seed=repeat)
        covered += low <= 20 <= high
        low, high = interval(items, ratio, [" ".join(sorted(pair)) for pair in who], samples=200, seed=repeat)
        by_pair += low <= 20 <= high
    assert covered >= 85
    assert by_pair <= 70


def test_several_names_of_which_each_has_one_are_as_one() -> None:
    items, names = rows(20)
    single = interval(items, ratio, names)
    alone = interval(items, ratio, [(name,) for name in names])
    assert alone == pytest.approx(single, abs=5)
    nobody: list[tuple[str, ...]] = [()] * len(items)
    assert interval(items, ratio, nobody) == pytest.approx(interval(items, ratio), abs=2)
    few = [("a", "b"), ("b", "c")] * (len(items) // 2)
    assert interval(items, ratio, few) == interval(items, ratio)  # three people say nothing of others


def rows(groups: int) -> tuple[np.ndarray, list[str]]:
    """Ten items of each group, all right or all wrong."""
    right = np.repeat(np.arange(groups) % 2, 10)
    return np.stack([right, np.ones(len(right))], axis=1), [f"g{i}" for i in range(groups) for _ in range(10)]


def test_whole_groups_are_drawn_when_there_are_enough() -> None:
    items, names = rows(MIN_GROUPS)
    narrow, wide = (interval(items, ratio, groups) for groups in (None, names))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    items, names = rows(MIN_GROUPS - 1)
    assert interval(items, ratio, names) == interval(items, ratio)


def test_items_without_a_name_stand_alone() -> None:
    items, names = rows(20)
    assert interval(items, ratio, [""] * len(items)) == interval(items, ratio)
    half = ["" if i < 100 else name for i, name in enumerate(names)]
    widths = [high - low for low, high in (interval(items, ratio, groups) for groups in (None, half, names))]
    assert widths == sorted(widths)


def test_the_seed_decides_and_the_order_within_a_group_does_not_matter() -> None:
    items, names = rows(20)
    items[:, 0] = np.arange(200)
    found = interval(items, ratio, names, seed=3)
    assert found == interval(items, ratio, names, seed=3)
    assert found != interval(items, ratio, names, seed=4)
    backwards = np.arange(200).reshape(20, 10)[:, ::-1].ravel()
    assert found == interval(items[backwards], ratio, names, seed=3)


def test_any_statistic_and_level() -> None:
    values = np.random.default_rng(0).standard_normal((400, 1))
    low, high = interval(values, lambda sample: float(np.median(sample)))
    assert low < np.median(values) < high
    narrower = interval(values, lambda sample: float(np.median(sample)), level=0.5)
    assert low < narrower[0] < narrower[1] < high


def test_nothing_gives_nan() -> None:
    assert all(map(math.isnan, interval(np.zeros((5, 2)), ratio)))
    assert all(map(math.isnan, interval(np.zeros((0, 2)), ratio)))
    one = np.array([[0.0, 0.0]] * 9 + [[1.0, 2.0]])  # a sample without the last row has no value
    assert interval(one, ratio) == (50, 50)


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match="3 groups for 2 rows"):
        interval(np.ones((2, 2)), ratio, ["a", "b", "c"])
    with pytest.raises(ValueError, match="items, columns"):
        interval(np.ones(4), ratio)
