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


def test_the_shares_of_the_documentation_are_those_of_the_sizes() -> None:
    shares = [round(params(dim) / params(200), 3) for dim in (64, 88, 120, 152, 176)]
    assert shares == pytest.approx([0.114, 0.2, 0.37, 0.58, 0.78], abs=0.006)
