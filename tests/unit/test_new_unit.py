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
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, encoder_cost, meet_budget, total
from sottovoce.reporting import inspect, page
from sottovoce.reporting.collect import gather
from sottovoce.reporting.composition import picture
from tests.unit.test_pruning_budget import TWELVE, flops
from tests.unit.test_pruning_exactness import check, draw
from tests.unit.test_pruning_styles import STYLES, all_units, make
from tests.unit.test_train import small

PLUGIN = "tests.plugins.whole_layers"


@pytest.fixture(autouse=True, scope="module")
def layers() -> Iterator[None]:
    """Registered as an entry point would do it, for this file alone: the tests of all kinds know nothing of it."""
    UNITS.names()
    sys.modules.pop(PLUGIN, None)
    importlib.import_module(PLUGIN)
    yield
    UNITS._items.pop("layer")


@pytest.mark.parametrize("style", STYLES)
def test_gated_is_cut_and_costs_are_exact(style: str) -> None:
    for units in (("layer",), all_units(style)):
        student = check(make(style), units, seed=3)
        cost = total(encoder_cost(student.config, seconds=0.5))
        assert cost.params == sum(tensor.numel() for tensor in student.state_dict().values())
        assert float(cost.macs) * 0.5 == pytest.approx(flops(student, 8000) / 2, rel=1e-3)
        assert type(student.config).from_dict(json.loads(json.dumps(student.config.to_dict()))) == student.config


@pytest.mark.parametrize("closed", ["layers.1.ffn", "layers.1.feed_forward", "layers.1.layer", "everything"])
def test_a_part_may_be_gone_in_several_ways(closed: str) -> None:
    encoder, units = make("hubert-base"), ("ffn", "feed_forward", "head", "layer", "low_rank")
    values = draw(GatedEncoder(encoder, units).plan)
    for name, value in values.items():
        if closed in (name, "everything"):
            value.zero_()
            value[: int(name.endswith("proj"))] = 0.5  # one direction must stay
    check(encoder, units, values)


@pytest.mark.parametrize("unit", ["params", "macs", "latency"])
def test_its_budget_is_met(unit: str) -> None:
    encoder = Encoder(TWELVE)
    gated = GatedEncoder(encoder, ("conv", "head", "ffn", "layer"))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=2.0)
    budget = Budget(BudgetConfig(unit, 0.4), gated.encoder.config, gated.plan)  # type: ignore[arg-type]
    budget.sparsity(gated.gates).backward()
    assert all(parameter.grad is not None and (parameter.grad < 0).all() for parameter in gated.gates.parameters())
    report = meet_budget(gated.gates, budget)
    assert report.met, report.text
    assert any(report.counts[f"layers.{i}.layer"] == 0 for i in range(12))
    assert budget.measure({}) == pytest.approx(1.0)


def test_a_run_trains_cuts_reports_and_shows_it(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    units = ["pruning.units=[conv,head,ffn,layer]", "pruning.gates.drop=0.4"]
    assert small(teacher_folder, speech_folder, out, units, budget="params").met
    student = sottovoce.load(out)
    assert student(torch.randn(1, 8000)).last.isfinite().all()
    (run,) = gather([out]).runs
    drawn = picture(run)
    assert drawn is not None
    assert "Layer" in drawn.titles
    assert "Layer" in page.render(gather([out]))
    shown = inspect.inspect(str(out))
    assert "; layer " in shown["parts"]["layers.0.ffn"]["shape"]
