"""The table of `experiments/quality`: it shows what is measured and says where the curves cross."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.quality.run import params, table


def record(name: str, agreement: float) -> dict[str, Any]:
    interval = {"value": agreement, "low": agreement - 0.1, "high": agreement + 0.1}
    return {
        "kind": "evaluation",
        "model": {"name": name},
        "task": {"entry": "degraded"},
        "measures": {"agreement": interval, "rank_agreement": interval},
        "details": {"rater": {"params": 1000}},
    }


@pytest.mark.parametrize(
    ("pruned", "says"),
    [
        ([0.1, 0.2, 0.9, 0.9, 0.9], "The curves cross between the sizes of 88 and 120."),
        ([0.9] * 5, "The curves do not cross: pruned is better at every size that has both."),
        ([], "No size has both kinds of students yet."),
    ],
)
def test_says_where_the_curves_cross(pruned: list[float], says: str) -> None:
    sizes = (64, 88, 120, 152, 176)
    records = [record(f"scratch-{dim}", 0.5) for dim in sizes]
    records += [record(f"pruned-{dim}", value) for dim, value in zip(sizes, pruned, strict=False)]
    lines = table(records)
    assert lines[-1] == says
    assert "| scratch-64 | 1,000 | 0.500 (0.400 to 0.600) | 0.500 (0.400 to 0.600) | – |" in lines


def test_pairs_and_the_router_have_tables_of_their_own() -> None:
    better = {"value": 0.02, "low": 0.01, "high": 0.03}
    pair = {
        "kind": "paired",
        "models": [{"name": "pruned-64"}, {"name": "scratch-64"}],
        "tasks": {"degraded": {"measures": {"agreement": {"better": better, "p": 0.004}}}},
    }
    scores = [f"{score}_{measure}" for score in ("distillmos", "dnsmos", "mean", "router") for measure in ("pearson", "spearman")]
    router = {
        "name": "router",
        "recordings": 300,
        "weights": {"distillmos": 0.6, "dnsmos": 0.4},
        "measures": dict.fromkeys(scores, better),
    }
    lines = table([record("scratch-64", 0.5), pair, {**pair, "models": pair["models"][::-1]}, router])
    assert "| pruned-64, scratch-64 | +0.020 (+0.010 to +0.030) | 0.0080 |" in lines  # two pairs
    assert "| router | 0.020 (0.010 to 0.030) | 0.020 (0.010 to 0.030) |" in lines


def test_the_shares_of_the_documentation_are_those_of_the_sizes() -> None:
    shares = [round(params(dim) / params(200), 3) for dim in (64, 88, 120, 152, 176)]
    assert shares == pytest.approx([0.114, 0.2, 0.37, 0.58, 0.78], abs=0.006)
