"""A kind of unit from a file outside the package is gated, costed, budgeted, cut, trained, reported and inspected without another edit."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sottovoce
from sottovoce.core.registry import UNITS
from sottovoce.encoder import Encoder
from sottovoce.inference.packed import fastest
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, encoder_cost, load_latency, meet_budget, prepare, total
from sottovoce.reporting import inspect, page
from sottovoce.reporting.collect import gather
from sottovoce.reporting.composition import picture
from tests.unit.test_pruning_budget import TWELVE, flops
from tests.unit.test_pruning_exactness import check, distance, draw
from tests.unit.test_pruning_styles import STYLES, all_units, make, waves
from tests.unit.test_train import small

PLUGIN = "tests.plugins.low_rank"


@pytest.fixture(autouse=True, scope="module")
def low_rank() -> Iterator[None]:
    """Registered as an entry point would do it, for this file alone: the tests of all kinds know nothing of it."""
    UNITS.names()
    sys.modules.pop(PLUGIN, None)
    importlib.import_module(PLUGIN)
    yield
    UNITS._items.pop("rank")


@pytest.mark.parametrize("style", STYLES)
def test_gated_is_cut_and_costs_are_exact(style: str) -> None:
    for units in (("rank",), (*all_units(style), "rank")):
        student = check(make(style), units, seed=3)
        cost = total(encoder_cost(student.config, seconds=0.5))
        assert cost.params == sum(tensor.numel() for tensor in student.state_dict().values())
        assert float(cost.macs) * 0.5 == pytest.approx(flops(student, 8000) / 2, rel=1e-3)
        assert type(student.config).from_dict(json.loads(json.dumps(student.config.to_dict()))) == student.config


def test_two_factors_are_the_same_function() -> None:
    encoder = make("hubert-base")
    prepared = prepare(encoder, ("rank",))
    assert len(prepared.config.factored) == 3
    with torch.no_grad():
        assert distance(encoder(*waves(True)), prepared(*waves(True))) < 1e-4
        assert distance(encoder(*waves(True)), fastest(prepared)(*waves(True))) < 1e-4


@pytest.mark.parametrize("closed", ["layers.1.ffn", "layers.1.feed_forward", "everything"])
def test_a_part_that_is_gone_takes_its_factors_with_it(closed: str) -> None:
    encoder, units = make("hubert-base"), ("ffn", "feed_forward", "rank")
    values = draw(GatedEncoder(encoder, units).plan)
    for name, value in values.items():
        if closed in (name, "everything"):
            value.zero_()
            value[: int(name.endswith("rank"))] = 0.5  # one direction must stay
    check(encoder, units, values)


@pytest.mark.parametrize("unit", ["params", "macs", "latency"])
def test_its_budget_is_met(unit: str) -> None:
    encoder = Encoder(TWELVE)
    gated = GatedEncoder(encoder, ("conv", "head", "ffn", "rank"))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=2.0)
    budget = Budget(BudgetConfig(unit, 0.4), gated.encoder.config, gated.plan)  # type: ignore[arg-type]
    budget.sparsity(gated.gates).backward()
    assert all(parameter.grad is not None and (parameter.grad < 0).all() for parameter in gated.gates.parameters())
    report = meet_budget(gated.gates, budget)
    assert report.met, report.text
    assert any(report.counts[f"layers.{i}.rank"] < 192 for i in range(12))
    student = gated.cut().config
    if unit == "latency":
        assert load_latency().total(student) / load_latency().total(encoder.config) == pytest.approx(report.after, rel=1e-9)
    else:
        share = getattr(total(encoder_cost(student)), unit) / getattr(total(encoder_cost(encoder.config)), unit)
        assert share == pytest.approx(report.after, rel=1e-9)


def test_a_run_trains_cuts_reports_and_shows_it(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    units = ["pruning.units=[conv,head,rank]", "pruning.gates.drop=0.5"]
    assert small(teacher_folder, speech_folder, out, units, budget="params").met
    student = sottovoce.load(out)
    ranks = dict(student.config.factored)
    assert sum(ranks.values()) < 3 * 32
    assert student(torch.randn(1, 8000)).last.isfinite().all()
    (run,) = gather([out]).runs
    drawn = picture(run)
    assert drawn is not None
    assert "Rank of the first projection" in drawn.titles
    assert "Rank of the first projection" in page.render(gather([out]))
    shown = inspect.inspect(str(out))
    assert shown["parts"]["layers.0.ffn"]["shape"] == f"64 units of rank {ranks['layers.0.ffn.up_proj']}"
