"""Gates that differ from DPHuBERT's: straight-through, thresholds on norms, and a budget that weighs units by movement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sottovoce.encoder import Encoder
from sottovoce.pruning import (
    Budget,
    BudgetConfig,
    GateConfig,
    GatedEncoder,
    meet_budget,
    named_tensors,
    open_probability,
    open_units,
    shrink,
    units_to_keep,
)
from sottovoce.pruning.apply import unit_matrix
from sottovoce.train import api
from tests.interruption import ends_the_same
from tests.unit.test_pruning_exactness import distance
from tests.unit.test_pruning_styles import make, waves
from tests.unit.test_train import FAST, STEPS

UNITS = ("head", "ffn")


def gated(**options: object) -> GatedEncoder:
    return GatedEncoder(make("hubert-base"), UNITS, GateConfig(**options), torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def test_straight_through_gates_are_hard_and_have_the_gradient_of_soft_ones() -> None:
    encoder = gated(straight_through=True, drop=0.5)
    soft = gated(drop=0.5)
    for ours, theirs in zip(encoder.gates.parameters(), soft.gates.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    a, b = (each.gates.sample(torch.Generator().manual_seed(1)) for each in (encoder, soft))
    for name, value in a.items():
        assert set(value.tolist()) <= {0.0, 1.0}
        assert torch.equal(value != 0, b[name] != 0)  # open as often as before
    sums = [torch.stack([(value * torch.arange(len(value))).sum() for value in each.values()]).sum() for each in (a, b)]
    ours, theirs = (
        torch.autograd.grad(total, list(each.gates.parameters())) for total, each in zip(sums, (encoder, soft), strict=True)
    )
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    encoder.train()(waves(False)[0]).last.sum().backward()
    assert any(bool(parameter.grad.any()) for parameter in encoder.gates.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    "options", [{"straight_through": True}, {"pinching": True}, {"pinching": True, "straight_through": True}]
)
def test_the_cut_is_the_gated_encoder_and_meets_its_budget(options: dict[str, bool]) -> None:
    encoder = gated(**options, drop=0.4, drop_ffn=0.2)
    budget = Budget(BudgetConfig("params", 0.6), encoder.encoder.config, encoder.plan)
    report = meet_budget(encoder.gates, budget)
    assert report.met, report.text
    values = encoder.eval().gates.evaluate()
    if options.get("straight_through"):
        assert all(set(value.tolist()) <= {0.0, 1.0} for value in values.values())
    with torch.no_grad():
        assert distance(encoder(*waves(True)), encoder.cut()(*waves(True))) < 1e-5


def test_pinching_learns_one_threshold_per_group_on_the_norms_of_units() -> None:
    encoder = gated(pinching=True, drop=0.3, drop_ffn=0.3, std=1e-6, slope=2.0)
    assert all(parameter.shape == (1,) for parameter in encoder.gates.parameters())
    group = encoder.plan["layers.1.ffn"]
    log_alpha = encoder.gates.split(encoder.gates.flat().detach())[group.name]
    assert float(log_alpha.mean()) == pytest.approx(float(torch.tensor(0.7 / 0.3).log()), abs=1e-4)
    norms = unit_matrix(named_tensors(encoder.encoder), group).norm(dim=1)
    threshold = (norms.log() - log_alpha / 2.0).exp()  # log_alpha = slope log(norm / threshold)
    torch.testing.assert_close(threshold, threshold[:1].expand(len(norms)), rtol=1e-4, atol=0)
    kept = open_units(encoder.plan, encoder.gates.evaluate())[group.name]
    assert float(norms[kept].min()) >= float(norms[[i for i in range(40) if i not in kept]].max())
    with torch.no_grad():  # norms are read anew in training
        encoder.encoder.layers[1].ffn.up_proj.weight[3] *= 100
    encoder.train()(waves(False)[0])
    assert int(encoder.gates.split(encoder.gates.flat())[group.name].argmax()) == 3


def test_a_weighed_budget_presses_on_what_moved_least() -> None:
    encoder = gated(std=1e-6)
    moved = {group.name: torch.linspace(1, 4, group.size) for group in encoder.plan}
    before = Budget(BudgetConfig("params", 0.5), encoder.encoder.config, encoder.plan).sparsity(encoder.gates)
    encoder.gates.weigh(moved)
    budget = Budget(BudgetConfig("params", 0.5), encoder.encoder.config, encoder.plan)
    sparsity = budget.sparsity(encoder.gates)
    assert float(sparsity.detach()) == pytest.approx(float(before.detach()), abs=1e-4)  # equal gates: the same expected size
    sparsity.backward()
    for group in encoder.plan:
        pressure = encoder.gates.log_alpha[encoder.gates.key(group)].grad
        assert pressure is not None
        torch.testing.assert_close(
            pressure * moved[group.name], (pressure * moved[group.name])[:1].expand(group.size), rtol=1e-2, atol=0
        )
    assert not any("weights" in name for name in encoder.gates.state_dict())


@pytest.mark.parametrize("pinching", [True, False])
def test_live_cutting_keeps_thresholds_and_weights(pinching: bool) -> None:
    encoder = gated(pinching=pinching, drop=0.5, drop_ffn=0.5, std=2.0).eval()
    encoder.gates.weigh({group.name: torch.linspace(1, 4, group.size) for group in encoder.plan})
    budget = Budget(BudgetConfig("params", 0.2), encoder.encoder.config, encoder.plan)
    kept = units_to_keep(encoder, budget, 0.5)
    assert kept is not None
    smaller = shrink(encoder, kept)
    ours, theirs = (each.gates.split(open_probability(each.gates.flat(), each.gates.config)) for each in (smaller, encoder))
    for group in smaller.plan:
        torch.testing.assert_close(ours[group.name], theirs[group.name][kept[group.name]])
    assert smaller.gates.weights is not None
    assert float(smaller.gates.weights.mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("options", [
    ["pruning.gates.straight_through=true"], ["pruning.gates.pinching=true"], ["pruning.moved_since={teacher}"],
])  # fmt: skip
def test_runs_end_the_same_when_they_were_interrupted(
    options: list[str], teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    given = [each.replace("{teacher}", str(teacher_folder)) for each in options]
    overrides = [
        *FAST,
        *STEPS,
        *given,
        "stages.distill=false",
        "stages.evaluate=false",
        "pruning.live=2",
        "pruning.live_below=0.3",
    ]

    def run(out: str) -> api.Result:
        return api.compress(
            teacher_folder, recipe="dphubert", data=speech_folder, out=tmp_path / out, keep=0.5, device="cpu", overrides=overrides
        )

    ends_the_same(run, monkeypatch, after=7)
    assert json.loads((tmp_path / "b/run/cut.json").read_text())["budget"]["met"]


def test_a_model_of_another_shape_is_refused(teacher_folder: Path) -> None:
    from sottovoce.train.origin import origin_tensors

    encoder = make("hubert-base")
    assert isinstance(encoder, Encoder)
    with pytest.raises(ValueError, match="another shape than the student"):
        origin_tensors(str(teacher_folder), encoder, UNITS)
