"""Cutting while training: the same function, the optimiser's state of what is left, and runs that resume to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.encoder import Encoder
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, combine_cuts, shrink, shrink_tensors, units_to_keep
from sottovoce.train import api
from tests.conftest import tiny_shape
from tests.interruption import stopped
from tests.unit.test_train import FAST, STEPS


@pytest.fixture
def gated() -> GatedEncoder:
    """Some gates wide open, some as good as closed."""
    module = GatedEncoder(Encoder(tiny_shape()).reset_parameters(), ("conv", "head", "ffn", "attention", "feed_forward"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, log_alpha in module.gates.log_alpha.items():
            log_alpha.copy_(torch.where(torch.rand(log_alpha.shape, generator=generator) < 0.6, 4.0, -12.0))
            if name.endswith(("_attention", "_feed_forward")):
                log_alpha.fill_(4.0)
        module.gates.log_alpha["layers_1_attention"].fill_(-12.0)
    return module


def budget_of(gated: GatedEncoder, keep: float = 0.2) -> Budget:
    return Budget(BudgetConfig("params", keep), gated.encoder.config, gated.plan)


def test_what_is_left_is_the_same_function(gated: GatedEncoder) -> None:
    kept = units_to_keep(gated, budget_of(gated), 1e-3)
    assert kept is not None
    assert kept["layers.1.attention"] == []
    smaller = shrink(gated, kept)
    wave = torch.randn(2, 8000)
    values = gated.gates.sample(torch.Generator().manual_seed(3))
    values = {
        name: value * torch.zeros_like(value).index_fill(0, torch.tensor(kept[name], dtype=torch.long), 1.0)
        for name, value in values.items()
    }
    ours = {group.name: values[group.name][kept[group.name]] for group in smaller.plan}
    torch.testing.assert_close(smaller(wave, values=ours).last, gated(wave, values=values).last, atol=1e-5, rtol=1e-5)
    numbers = [sum(p.numel() for p in model.encoder.parameters()) for model in (smaller, gated)]
    assert numbers[0] < 0.75 * numbers[1]
    for group in smaller.plan:
        old, new = (model.gates.log_alpha[model.gates.key(group)] for model in (gated, smaller))
        assert torch.equal(new, old[kept[group.name]])


def test_the_budget_still_counts_from_the_teacher(gated: GatedEncoder) -> None:
    budget = budget_of(gated)
    kept = units_to_keep(gated, budget, 1e-3)
    assert kept is not None
    smaller = shrink(gated, kept)
    after = budget.of(smaller.encoder.config, smaller.plan)
    assert float(after.sparsity(smaller.gates).detach()) == pytest.approx(float(budget.sparsity(gated.gates).detach()), abs=1e-3)
    assert after.yardstick.reference == budget.yardstick.reference


def test_nothing_is_cut_that_the_budget_needs(gated: GatedEncoder) -> None:
    assert units_to_keep(gated, budget_of(gated, keep=0.95), 1e-3) is None
    with torch.no_grad():
        for log_alpha in gated.gates.log_alpha.values():
            log_alpha.fill_(2.0)
    assert units_to_keep(gated, budget_of(gated), 1e-3) is None


def test_an_optimisers_state_is_cut_as_the_weights_are(gated: GatedEncoder) -> None:
    """Moments that are copies of the parameters end as copies of what is left of them."""
    kept = units_to_keep(gated, budget_of(gated), 1e-3)
    assert kept is not None
    smaller = shrink(gated, kept)
    tensors = shrink_tensors(gated, kept, {name: p.detach().clone() for name, p in gated.named_parameters()})
    for name, parameter in smaller.named_parameters():
        assert torch.equal(tensors[name], parameter), name


def test_two_cuts_are_one() -> None:
    assert combine_cuts({"a": [1, 3, 5], "b": []}, {"a": [0, 2], "c": [4]}) == {"a": [1, 5], "b": [], "c": [4]}
    assert combine_cuts({}, {"a": [2]}) == {"a": [2]}


LIVE = [*FAST, *STEPS, "stages.prune.steps=24", "pruning.live=2", "pruning.gate_lr=2.0", "pruning.multiplier_lr=2.0"]


def run(teacher: Path, data: Path, out: Path, *extra: str) -> api.Result:
    options: dict[str, Any] = {"recipe": "dphubert", "data": data, "out": out, "budget": "macs", "keep": 0.4, "device": "cpu"}
    return api.compress(teacher, overrides=[*LIVE, *extra], **options)


def test_a_run_cuts_as_it_goes_and_meets_its_budget(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    result = run(teacher_folder, speech_folder, tmp_path / "s", "pruning.live_below=0.2")
    assert result.met
    cut = json.loads((tmp_path / "s/run/cut.json").read_text())
    shape = json.loads((tmp_path / "s/config.json").read_text())
    widths = [len(cut["kept"][f"layers.{i}.ffn"]) for i in range(3)]
    assert all(max(units, default=0) < 64 for units in cut["kept"].values())
    assert sum(widths) < 3 * 64
    assert load_file(tmp_path / "s/run/prune.safetensors")["gates.log_alpha.layers_0_ffn"].numel() < 64
    assert "layers" in json.dumps(shape)


def test_a_run_that_was_stopped_after_a_cut_ends_the_same(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(teacher_folder, speech_folder, tmp_path / "whole", "pruning.live_below=0.2")
    with stopped(monkeypatch, after=15):
        run(teacher_folder, speech_folder, tmp_path / "parts", "pruning.live_below=0.2")
    again = run(teacher_folder, speech_folder, tmp_path / "parts", "pruning.live_below=0.2")
    ours, theirs = (load_file(each.out / "model.safetensors") for each in (again, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
