"""Low rank: two factors for one matrix, learned, cut, merged where they do not pay, and written in every form a student has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import sottovoce
from sottovoce.encoder import Encoder
from sottovoce.hub.student import save_student
from sottovoce.inference.packed import fastest
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, cut, encoder_cost, load_latency, meet_budget, prepare, total
from sottovoce.pruning.factors import matching, merge, projections
from sottovoce.reporting import inspect, page
from sottovoce.reporting.collect import gather
from tests.unit.test_pruning_budget import TWELVE
from tests.unit.test_pruning_exactness import check, distance, draw
from tests.unit.test_pruning_styles import STYLES, make, waves
from tests.unit.test_train import small

FFN = "low_rank:*.ffn.*"


@pytest.mark.parametrize("style", STYLES)
def test_two_factors_at_full_rank_are_the_same_function(style: str) -> None:
    encoder = make(style)
    prepared = prepare(encoder, ("low_rank",))
    assert len(prepared.config.factored) == len(list(projections(encoder.config)))
    with torch.no_grad():
        assert distance(encoder(*waves(True)), prepared(*waves(True))) < 2e-4
        assert distance(prepared(*waves(True)), fastest(prepared)(*waves(True))) < 2e-4


def test_a_factored_layer_is_the_product_of_its_factors() -> None:
    encoder = make("hubert-base")
    values = draw(GatedEncoder(encoder, ("low_rank",)).plan)
    student = cut(prepare(encoder, ("low_rank",)), GatedEncoder(encoder, ("low_rank",)).plan, values)
    plain = Encoder(dataclasses.replace(student.config, factored=()))
    state = student.state_dict()
    for name, _ in student.config.factored:
        state[f"{name}.weight"] = state.pop(f"{name}.outer.weight") @ state.pop(f"{name}.inner.weight")
        state[f"{name}.bias"] = state.pop(f"{name}.outer.bias")
    plain.load_state_dict(state)
    with torch.no_grad():
        assert distance(student(*waves(True)), plain.eval()(*waves(True))) < 1e-5


def test_only_the_layers_of_the_pattern_are_factored() -> None:
    config = STYLES["mixed"]
    assert {each.name for each in matching(config, ["layers.0.convolution.*"])} == {
        "layers.0.convolution.in_proj",
        "layers.0.convolution.out_proj",
    }
    gated = GatedEncoder(make("hubert-base"), ("head", FFN, "low_rank:layers.2.attention.q*"))
    assert {group.name for group in gated.plan if group.kind == "low_rank"} == {
        *(f"layers.{i}.ffn.{name}_proj" for i in range(3) for name in ("up", "down")),
        "layers.2.attention.q_proj",
    }
    assert dict(gated.encoder.config.factored)["layers.0.ffn.up_proj"] == 40
    with pytest.raises(ValueError, match="nothing left to prune"):
        GatedEncoder(make("hubert-base"), ("low_rank:nothing",))


def test_patterns_choose_groups_of_every_kind() -> None:
    plan = GatedEncoder(make("hubert-base"), ("head", "ffn:layers.1.*", "ffn:layers.2.*")).plan
    assert [group.name for group in plan] == ["layers.0.head", "layers.1.head", "layers.1.ffn", "layers.2.head", "layers.2.ffn"]


def test_factors_that_do_not_pay_become_one_matrix() -> None:
    encoder = prepare(make("hubert-base"), ("low_rank",))
    plan = GatedEncoder(encoder, ("low_rank",)).plan
    values = {group.name: torch.ones(group.size) for group in plan}
    values["layers.0.ffn.up_proj"][10:] = 0  # of 40 x 48
    student = cut(encoder, plan, values)
    merged = merge(student)
    assert merged.config.factored == (("layers.0.ffn.up_proj", 10),)
    assert merge(merged) is merged
    with torch.no_grad():
        assert distance(student(*waves(True)), merged(*waves(True))) < 1e-5
    counts = {group.name: int(values[group.name].sum()) for group in plan}
    as_merged = total(encoder_cost(encoder.config, counts, merged=True))
    assert as_merged == total(encoder_cost(merged.config))
    assert as_merged.params == sum(tensor.numel() for tensor in merged.state_dict().values())


def test_parts_that_are_gone_keep_their_biases() -> None:
    """A projection without inputs is its bias, whether it was one matrix or two factors."""
    encoder, units = make("whisper"), ("head", "ffn", "low_rank")
    values = draw(GatedEncoder(encoder, units).plan)
    values["layers.1.head"].zero_()
    values["layers.2.ffn"].zero_()
    student = check(encoder, units, values)
    assert torch.equal(student.layers[1].attention.out_proj.bias, encoder.layers[1].attention.out_proj.bias)


def test_closed_parts_leave_zero_gradients_not_none() -> None:
    gated = GatedEncoder(make("hubert-base"), ("head", "ffn", "low_rank"))
    values = {group.name: torch.ones(group.size) for group in gated.plan}
    values["layers.1.head"].zero_()
    values["layers.1.ffn"].zero_()
    gated(waves(False)[0], values=values).last.sum().backward()
    assert all(parameter.grad is not None for parameter in gated.encoder.parameters() if parameter.requires_grad)


def test_a_part_without_units_is_cut_again() -> None:
    """Its projections are gone and only its bias is left, although its ranks are still in the config."""
    units = ("head", "attention", "low_rank")
    gated = GatedEncoder(make("hubert-base"), units)
    values = {group.name: torch.ones(group.size) for group in gated.plan}
    values["layers.1.head"].zero_()
    for name, value in values.items():
        if name.endswith("_proj"):  # a rank that pays
            value[len(value) // 4 :] = 0
    once = GatedEncoder(gated.cut(values), units).eval()
    assert once.encoder.config.layers[1].num_heads == 0
    values = {group.name: torch.ones(group.size) for group in once.plan}
    wave = torch.randn(1, 8000)
    torch.testing.assert_close(once.cut(values)(wave).last, once(wave, values=values).last, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("unit", ["params", "macs", "latency"])
@pytest.mark.parametrize("units", [("conv", "head", "ffn", "low_rank"), ("low_rank",)])
def test_the_budget_is_met_after_merging(unit: str, units: tuple[str, ...]) -> None:
    encoder = Encoder(TWELVE)
    gated = GatedEncoder(encoder, units)
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=2.0)
    budget = Budget(BudgetConfig(unit, 0.6 if len(units) > 1 else 0.85), gated.encoder.config, gated.plan)  # type: ignore[arg-type]
    budget.sparsity(gated.gates).backward()
    assert all(parameter.grad is not None and (parameter.grad < 0).all() for parameter in gated.gates.parameters())
    report = meet_budget(gated.gates, budget)
    assert report.met, report.text
    student = merge(gated.cut()).config
    if unit == "latency":
        assert load_latency().total(student) / load_latency().total(encoder.config) == pytest.approx(report.after, rel=1e-9)
    else:
        share = getattr(total(encoder_cost(student)), unit) / getattr(total(encoder_cost(encoder.config)), unit)
        assert share == pytest.approx(report.after, rel=1e-9)


def test_a_run_learns_ranks_cuts_live_reports_and_shows_them(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    options = [f"pruning.units=[conv,head,ffn,'{FFN}']", "pruning.gates.drop=0.5", "pruning.live=2", "pruning.live_below=0.4"]
    assert small(teacher_folder, speech_folder, out, options, budget="params").met
    student = sottovoce.load(out)
    assert student.config.factored
    assert student(torch.randn(1, 8000)).last.isfinite().all()
    assert "Rank into the feed-forward" in page.render(gather([out]))
    assert "; ranks: " in inspect.inspect(str(out))["parts"][student.config.factored[0][0].rpartition(".")[0]]["shape"]


@pytest.mark.parametrize("style", ["hubert-base", "whisper", "moonshine"])
def test_a_factored_student_is_written_and_read(style: str, tmp_path: Path) -> None:
    student = low(style)
    save_student(tmp_path / "s", student, normalize=False, teacher="somewhere")
    loaded = sottovoce.load(tmp_path / "s")
    assert loaded.config.factored == student.config.factored
    with torch.no_grad():
        assert distance(student(*waves(True)), loaded(*waves(True))) == 0


@pytest.mark.slow  # translating takes seconds
def test_a_factored_student_as_onnx_says_what_it_says() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from sottovoce.exporting import onnx
    from sottovoce.exporting.graph import Graph

    graph = Graph(low("whisper"), normalize=False).eval()
    session = runtime.InferenceSession(onnx.translate(graph).SerializeToString())
    wave, lengths = waves(True)
    assert lengths is not None
    given = zip((each.name for each in session.get_inputs()), (wave.numpy(), lengths.numpy()), strict=True)
    said = torch.from_numpy(session.run(None, dict(given))[0])
    with torch.no_grad():
        expected = graph.encoder(wave, lengths).last
    frames = int(graph.encoder.config.frontend.frames(1100))
    torch.testing.assert_close(said[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(said[1, :frames], expected[1, :frames], rtol=1e-4, atol=1e-4)


def low(style: str) -> Encoder:
    """An encoder of the style with random ranks."""
    encoder = prepare(make(style), ("low_rank",))
    plan = GatedEncoder(encoder, ("low_rank",)).plan
    return cut(encoder, plan, draw(plan, seed=1))
