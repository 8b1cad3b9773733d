"""Hard-concrete gates: their distribution, their evaluation, and what is kept when everything would be closed."""

from __future__ import annotations

import math

import pytest
import torch

from sottovoce.pruning import GateConfig, GatedEncoder, Gates, Group, PruningConfig, PruningPlan, hard_concrete, open_probability

PLAN = PruningPlan((Group("a.0", "conv", 6, (), minimum=1), Group("a.1", "head", 4, ()), Group("a.2", "ffn", 200, ())))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("log_alpha", [-3.0, -1.6, 0.0, 2.0])
def test_samples_follow_their_distribution(log_alpha: float) -> None:
    config, flat = GateConfig(), torch.full((200_000,), log_alpha)
    z = hard_concrete(flat, config, seeded())
    assert z.min() >= 0
    assert z.max() <= 1
    assert (z > 0).float().mean().item() == pytest.approx(open_probability(flat[:1], config).item(), abs=4e-3)
    # P(z = 1) = P(s (zeta - gamma) + gamma >= 1)
    s = (1 - config.gamma) / (config.zeta - config.gamma)
    full = torch.sigmoid(torch.tensor(log_alpha - config.beta * math.log(s / (1 - s)))).item()
    assert (z == 1).float().mean().item() == pytest.approx(full, abs=4e-3)


def test_gates_start_where_dphubert_starts() -> None:
    gates = Gates(PLAN, GateConfig(), seeded())
    assert gates.log_alpha["a_0"].mean().item() == pytest.approx(4.595, abs=0.02)
    assert gates.log_alpha["a_2"].mean().item() == pytest.approx(0.0, abs=0.01)
    assert gates.log_alpha["a_2"].std().item() == pytest.approx(0.01, rel=0.2)
    assert gates.expected()["a.2"].item() / 200 == pytest.approx(0.832, abs=1e-3)
    again = Gates(PLAN, GateConfig(), seeded())
    assert all(torch.equal(a, b) for a, b in zip(gates.parameters(), again.parameters(), strict=True))


def test_a_group_with_a_minimum_never_closes() -> None:
    gates = Gates(PLAN).train()
    with torch.no_grad():
        gates.log_alpha["a_0"].copy_(torch.tensor([-30.0, -30, -25, -30, -30, -30]))
        gates.log_alpha["a_1"].fill_(-30)
    sampled, evaluated = gates(), gates.eval()()
    assert sampled["a.0"].nonzero().flatten().tolist() == [2]
    assert sampled["a.0"][2] < 1e-30  # its own sampled value is 0; this only marks it as kept
    assert evaluated["a.0"].nonzero().flatten().tolist() == [2]
    assert not sampled["a.1"].any()
    assert not evaluated["a.1"].any()


def test_evaluation_is_never_stale() -> None:
    """The reference keeps its mask until the next forward in training: loading other gates in evaluation has no effect there."""
    gates, other = Gates(PLAN).eval(), Gates(PLAN, generator=seeded(1))
    before = gates()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(std=3, generator=seeded(2))
    gates.load_state_dict(other.state_dict())
    after = gates()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(after[name], value) for name, value in other.eval()().items())


def test_chosen_units_override_the_count_and_are_saved() -> None:
    gates = Gates(PLAN).eval()
    kept = {"a.0": [5], "a.1": [], "a.2": [0, 3, 199]}
    gates.choose(kept)
    fresh = Gates(PLAN).eval()
    fresh.load_state_dict(gates.state_dict())
    assert {name: value.nonzero().flatten().tolist() for name, value in fresh().items()} == kept
    fresh.choose(None)
    assert fresh()["a.0"].ne(0).sum() == 6


def test_extreme_gates_stay_finite_and_open_ones_nonzero() -> None:
    gates = Gates(PLAN)
    with torch.no_grad():
        gates.log_alpha["a_2"].copy_(torch.cat([torch.full((100,), 200.0), torch.full((100,), -200.0)]))
    gates.choose({"a.0": [0], "a.1": [0], "a.2": range(200)})
    assert gates.eval()()["a.2"].ne(0).all()
    sampled = gates.train()()["a.2"]
    sampled.sum().backward()
    assert sampled.isfinite().all()
    assert gates.log_alpha["a_2"].grad.isfinite().all()


def test_gradients_reach_the_gates_through_the_encoder() -> None:
    from .test_pruning_styles import make, waves

    gated = GatedEncoder(make("hubert-base"), ("conv", "head", "ffn"), generator=seeded()).train()
    torch.manual_seed(0)
    gated(*waves(False)).last.square().mean().backward()
    assert gated.gates.log_alpha["layers_1_ffn"].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in gated.gates.parameters())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="nothing left to prune"):
        Gates(PruningPlan(()))
    with pytest.raises(ValueError, match="between 0 and 1"):
        GateConfig(drop=1.0)
    with pytest.raises(ValueError, match="did you mean 'conv'"):
        PruningConfig(units=("convs",))
    with pytest.raises(ValueError, match="nothing to prune"):
        PruningConfig(units=())
