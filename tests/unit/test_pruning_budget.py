"""Cost formulas against the real thing, and budgets that are met."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.pruning import (
    Budget,
    BudgetConfig,
    GatedEncoder,
    Lagrangian,
    Report,
    encoder_cost,
    full_widths,
    make_plan,
    meet_budget,
    prepare,
    prepare_config,
    target_at,
    total,
)
from sottovoce.train import optim
from sottovoce.train.stages.train import Train
from tests.conftest import tiny_shape

from .test_pruning_styles import STYLES, make

UNITS = ("conv", "head", "ffn")
CONVS = tuple(ConvConfig(128, kernel, stride) for kernel, stride in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)])
TWELVE = EncoderConfig(FrontendConfig(CONVS), 192, PositionConfig(128, 16), (LayerConfig(6, 32, 768),) * 12)


def flops(encoder: Encoder, samples: int) -> float:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, samples))  # the CPU's fused attention would be counted as nothing
    return float(counter.get_total_flops())


@pytest.mark.parametrize("style", STYLES)
def test_cost_is_what_torch_counts(style: str) -> None:
    encoder = make(style)
    cost = total(encoder_cost(encoder.config, seconds=0.5))
    assert cost.params == sum(tensor.numel() for tensor in encoder.state_dict().values())
    assert float(cost.macs) * 0.5 == pytest.approx(flops(encoder, 8000) / 2, rel=1e-3)


def test_cost_of_hubert_base() -> None:
    """Published sizes: 94.37 M parameters without the weight norm's 128 values and the mask embedding."""
    convs = tuple(ConvConfig(512, conv.kernel, conv.stride) for conv in CONVS)
    config = EncoderConfig(FrontendConfig(convs), 768, PositionConfig(128, 16), (LayerConfig(12, 64, 3072),) * 12)
    costs = encoder_cost(config)
    assert total(costs).params == 94_371_456 - 512 - 128  # the reference's count, less dummy_weight and weight_g
    front = sum(float(cost.macs) for name, cost in costs.items() if name.startswith("frontend.convs"))
    assert front / float(total(costs).macs) == pytest.approx(0.33, abs=0.02)
    assert list(costs)[:2] == ["frontend.convs.0", "frontend.convs.1"]
    assert {"frontend.projection", "position", "layers.3.attention", "layers.3.ffn", "norms"} <= costs.keys()


def test_cost_of_a_position_with_scales() -> None:
    encoder = prepare(make("hubert-base"), ("position",))
    assert total(encoder_cost(encoder.config)).params == sum(tensor.numel() for tensor in encoder.state_dict().values())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("unit", ["params", "macs"])
def test_expected_cost_is_the_mean_of_exact_costs(style: str, unit: str) -> None:
    gated = GatedEncoder(make(style), ("conv", "head", "ffn", "attention", "feed_forward"))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=1.0, generator=torch.Generator().manual_seed(0))
    config = gated.encoder.config
    expected = getattr(total(encoder_cost(config, gated.gates.expected())), unit).item()
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = [{name: int(value.ne(0).sum()) for name, value in gated.gates.sample().items()} for _ in range(400)]
    mean = sum(float(getattr(total(encoder_cost(config, counts)), unit)) for counts in drawn) / len(drawn)
    assert mean == pytest.approx(expected, rel=0.02)


def test_expected_cost_has_gradients_everywhere() -> None:
    gated = GatedEncoder(make("wavlm-base"), ("conv", "head", "ffn", "attention", "feed_forward", "position"))
    Budget(BudgetConfig("macs", 0.5), gated.encoder.config, gated.plan).sparsity(gated.gates).backward()
    assert all(parameter.grad is not None and (parameter.grad < 0).all() for parameter in gated.gates.parameters())


@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("keep", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
def test_budget_is_met(unit: str, keep: float, spread: float) -> None:
    units = UNITS
    if keep == 0.1:
        units = ("conv", "head", "ffn", "attention", "feed_forward", "position")
    encoder = prepare(Encoder(TWELVE), units)
    gated = GatedEncoder(encoder, units)
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=spread, generator=torch.Generator().manual_seed(parameter.numel()))
    budget = Budget(BudgetConfig(unit, keep), encoder.config, gated.plan)
    report = meet_budget(gated.gates, budget)
    assert report.met, report.text
    assert -0.01 <= report.error <= 0
    student = gated.cut()
    measured = getattr(total(encoder_cost(student.config)), unit) / getattr(total(encoder_cost(TWELVE)), unit)
    assert measured == pytest.approx(report.after, rel=1e-12)
    again = meet_budget(gated.gates, budget)  # nothing moves any more
    assert again.before == report.after
    assert again.after == pytest.approx(report.after, rel=0.01)


def test_a_budget_that_cannot_be_met_is_refused_at_once() -> None:
    plan = make_plan(TWELVE, ("ffn",))
    with pytest.raises(ValueError, match=r"cannot keep only 0\.1 of the teacher's params: 0\.4.*\(ffn\)"):
        Budget(BudgetConfig("params", 0.1), TWELVE, plan)
    with pytest.raises(ValueError, match="above 0"):
        BudgetConfig(keep=0)
    everything = make_plan(prepare_config(TWELVE, ("position",)), ("conv", "attention", "feed_forward", "position"))
    with pytest.raises(ValueError, match="is left"):
        Budget(BudgetConfig("params", 1e-6), prepare_config(TWELVE, ("position",)), everything)


@pytest.mark.parametrize(
    ("before", "says"),
    [(0.9273, "Training reached 92.7 %; the rest was cut"), (0.1, "reached 10.0 %; units were opened again"), (0.25, "25.0 %.")],
)
def test_the_report_says_what_training_reached(before: float, says: str) -> None:
    text = Report("macs", target=0.25, before=before, after=0.25, shift=0.0, filled=0, met=True).text
    assert says in text
    assert text.startswith("keeps 25.00 % of the teacher's MACs, budget 25.00 % met.")


def test_a_budget_that_is_missed_says_why() -> None:
    config = dataclasses.replace(TWELVE, layers=(LayerConfig(1, 192, 768),) * 2)
    gated = GatedEncoder(Encoder(config), ("attention",))
    report = meet_budget(gated.gates, Budget(BudgetConfig("params", 0.97), config, gated.plan))
    assert not report.met
    assert "too coarse" in report.reason
    assert "NOT met" in report.text
    student = dataclasses.replace(config, layers=config.layers[:1])
    gated = GatedEncoder(Encoder(student), ("ffn",))
    report = meet_budget(gated.gates, Budget(BudgetConfig("params", 0.99), student, gated.plan, teacher=config))
    assert not report.met
    assert "every unit open" in report.reason


@pytest.mark.parametrize(("before", "change"), [(0.4, "raise"), (0.26, ""), (0.24, ""), (0.1, "restarts")])
def test_gates_far_from_the_budget_are_a_warning(before: float, change: str) -> None:
    report = Report("macs", target=0.25, before=before, after=0.25, shift=0.0, filled=0, met=True)
    assert bool(report.warning) == bool(change)
    assert change in report.warning


def test_teacher_without_scales_is_the_reference() -> None:
    config = prepare_config(TWELVE, ("position",))
    plan = make_plan(config, ("position",))
    assert Budget(BudgetConfig(keep=0.99), config, plan).yardstick.reference == total(encoder_cost(TWELVE)).params


def test_widths_are_named_like_groups() -> None:
    config = prepare_config(TWELVE, ("position",))
    plan = make_plan(config, ("conv", "head", "ffn", "attention", "feed_forward", "position"))
    assert {group.name: group.size for group in plan} == full_widths(config)


def test_lagrangian_and_ramp() -> None:
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda1.fill_(0.37)
        lagrangian.lambda2.fill_(1.9)
    assert lagrangian(torch.tensor(0.2), 0.6).item() == pytest.approx(0.37 * -0.4 + 1.9 * 0.16)
    assert [target_at(step, 10, 0.75) for step in (0, 5, 10, 50)] == [0.0, 0.375, 0.75, 0.75]
    assert target_at(0, 0, 0.75) == 0.75
    assert [target_at(step, 10, 0.75, 0.25) for step in (0, 5, 10, 50)] == [0.25, 0.5, 0.75, 0.75]


def arrival(restarts: bool) -> float:
    """How far from 95 % the sparsity ends when every gate is worth something and there are few updates for so many to close."""
    torch.manual_seed(0)
    gated = GatedEncoder(Encoder(tiny_shape()), ("conv", "head", "ffn"))
    budget = Budget(BudgetConfig("macs", 0.05), gated.encoder.config, gated.plan)
    lagrangian = Lagrangian()
    config = Train.Config(steps=200, warmup=0)
    multipliers = optim.group("multipliers", lagrangian.parameters(), 1.0, maximize=True)
    optimizer = optim.make_optimizer([optim.group("gates", gated.gates.parameters(), 0.25), multipliers], config)
    for step in range(config.steps):
        optim.set_rates(optimizer, optim.schedule(step, config))
        optimizer.zero_grad()
        sparsity, target = budget.sparsity(gated.gates), target_at(step, 70, budget.goal)
        (sparsity + lagrangian(sparsity, target)).backward()
        optimizer.step()
        if restarts:
            lagrangian.restart(sparsity, target, optimizer)
    return abs(budget.sparsity(gated.gates).item() - budget.goal)


def test_restarts_keep_the_gates_from_going_too_far() -> None:
    without, with_restarts = arrival(restarts=False), arrival(restarts=True)
    assert without > 0.01
    assert with_restarts < 0.005


def test_a_restart_waits_for_the_target() -> None:
    lagrangian = Lagrangian()
    optimizer = torch.optim.AdamW(lagrangian.parameters(), lr=0.5, maximize=True)
    lagrangian(torch.tensor(0.2), 0.6).backward()
    optimizer.step()
    lagrangian.restart(torch.tensor(0.2), 0.6, optimizer)
    assert lagrangian.lambda1.item() == pytest.approx(-0.5)
    lagrangian.restart(torch.tensor(0.7), 0.6, optimizer)
    assert lagrangian.lambda1.item() == 0
    assert optimizer.state[lagrangian.lambda1]["exp_avg"].item() == 0
    assert lagrangian.lambda2.item() == pytest.approx(0.5)


def test_the_ramp_begins_where_the_student_does() -> None:
    """0 for the teacher's own shape, scales of positions or not; of a smaller student what it already lacks, but not beyond the goal."""
    teacher = tiny_shape()
    smaller = dataclasses.replace(teacher, layers=teacher.layers[:1])

    def start(shape: EncoderConfig, keep: float) -> float:
        gated = GatedEncoder(Encoder(shape), ("conv", "head", "ffn", "position"))
        return Budget(BudgetConfig("params", keep), gated.encoder.config, gated.plan, teacher).start

    assert start(teacher, 0.3) == 0.0
    lacking = 1 - total(encoder_cost(smaller)).params / total(encoder_cost(teacher)).params
    assert start(smaller, 0.3) == pytest.approx(lacking, abs=1e-3)
    assert 0.1 < lacking < 0.7
    assert start(smaller, 0.9) == pytest.approx(0.1)


def test_a_budget_counts_units_and_not_the_padding_of_the_teacher() -> None:
    """A teacher that pads to a window and a student that does not are compared on clips of the same length."""
    shape = tiny_shape()
    padded = dataclasses.replace(shape, window=shape.frontend.stride * 1500)
    plan = make_plan(shape, ["head", "ffn"])
    for unit in ("params", "macs"):
        budget = Budget(BudgetConfig(unit=unit, keep=0.9), shape, plan, padded)
        assert budget.share({}) == pytest.approx(1)
