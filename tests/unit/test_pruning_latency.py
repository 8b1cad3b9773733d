"""Predicted latency: one formula for counts and expectations, budgets that are met, files that are read or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sottovoce.core import ledger
from sottovoce.encoder import Encoder, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.pruning import (
    Budget,
    BudgetConfig,
    GatedEncoder,
    encoder_cost,
    encoder_parts,
    full_widths,
    load_latency,
    make_plan,
    meet_budget,
    narrow,
    prepare,
)
from sottovoce.pruning.latency import ALIKE, DEFAULT, KIND, LatencyModel, from_record
from sottovoce.timing import fit
from sottovoce.timing.parts import Timeable, grid
from sottovoce.train.recipe import load_recipe

from .test_pruning_budget import TWELVE
from .test_pruning_styles import STYLES, make

front = FrontendConfig.like_wav2vec2
# Every kind of part, and the names of its terms.
TERMS = {
    part.kind: tuple(part.terms)
    for config in (*STYLES.values(), *grid().values())
    for part in encoder_parts(config, seconds=0.5).values()
}
UNITS = ("conv", "head", "ffn", "attention", "feed_forward")


def record() -> dict[str, Any]:
    """A file's content: coefficients of a plausible size, all different; calls cost next to nothing."""
    values = iter(0.01 + 0.001 * i for i in range(1000))
    return {
        **ledger.header(KIND),
        "seconds": 0.5,
        "threads": 1,
        "coefficients": {
            kind: {term: next(values) / (100 if term == "call" else 1) for term in terms} for kind, terms in TERMS.items()
        },
    }


@pytest.fixture
def machine(tmp_path: Path) -> str:
    ledger.write(tmp_path / "latency.json", record())
    return str(tmp_path / "latency.json")


@pytest.mark.parametrize("style", STYLES)
def test_every_part_has_a_latency_and_is_linear_in_every_width(style: str) -> None:
    model, config = from_record(record()), STYLES[style]
    full = full_widths(config)
    predicted = model.predict(config)
    assert predicted.keys() == encoder_cost(config, seconds=0.5).keys()
    assert all(float(value) > 0 for value in predicted.values())
    assert model.total(config, full) == pytest.approx(float(model.total(config)))
    for name, width in full.items():
        if width < 3:  # whole parts: two points make a line
            continue
        lower, middle, upper = (float(model.total(config, {name: w})) for w in (width - 2, width - 1, width))
        assert upper - middle == pytest.approx(middle - lower)
        assert upper > middle


@pytest.mark.parametrize("style", ["hubert-large", "wavlm-base", "conformer"])
def test_expected_latency_is_the_mean_of_exact_ones(style: str) -> None:
    model, gated = from_record(record()), GatedEncoder(make(style), UNITS)
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=1.0, generator=torch.Generator().manual_seed(0))
    config = gated.encoder.config
    with torch.no_grad():
        expected = float(model.total(config, gated.gates.expected()))
        torch.manual_seed(0)
        drawn = [{name: int(value.ne(0).sum()) for name, value in gated.gates.sample().items()} for _ in range(400)]
    mean = sum(float(model.total(config, counts)) for counts in drawn) / len(drawn)
    assert mean == pytest.approx(expected, rel=0.02)


def test_latency_presses_on_every_gate(machine: str) -> None:
    gated = GatedEncoder(make("wavlm-base"), (*UNITS, "position"))
    Budget(BudgetConfig("latency", 0.5, machine=machine), gated.encoder.config, gated.plan).sparsity(gated.gates).backward()
    assert all(parameter.grad is not None and (parameter.grad < 0).all() for parameter in gated.gates.parameters())


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("round_to", [1, 8])
def test_the_cut_model_has_the_predicted_latency_that_was_asked_for(keep: float, round_to: int, machine: str) -> None:
    gated = GatedEncoder(Encoder(TWELVE), ("conv", "head", "ffn"))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=2.0, generator=torch.Generator().manual_seed(parameter.numel()))
    budget = Budget(BudgetConfig("latency", keep, machine=machine, round_to=round_to), TWELVE, gated.plan)
    report = meet_budget(gated.gates, budget)
    assert report.met, report.text
    assert "latency (predicted for" in report.text
    student, model = gated.cut().config, load_latency(machine)
    assert float(model.total(student)) / float(model.total(TWELVE)) == pytest.approx(keep, rel=0.01)
    assert float(model.total(student)) / float(model.total(TWELVE)) == pytest.approx(report.after, rel=1e-12)
    assert all(layer.ffn_dim % round_to == 0 for layer in student.layers)
    assert all(conv.dim % round_to == 0 for conv in student.frontend.convs)


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_rounded_widths_meet_other_budgets_too(unit: Any) -> None:
    gated = GatedEncoder(prepare(Encoder(TWELVE), ("position",)), (*UNITS, "position"))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=2.0, generator=torch.Generator().manual_seed(parameter.numel()))
    report = meet_budget(gated.gates, Budget(BudgetConfig(unit, 0.3, round_to=16), gated.encoder.config, gated.plan))
    assert report.met, report.text
    student = gated.cut().config
    assert all(layer.ffn_dim % 16 == 0 for layer in student.layers)
    assert all(conv.dim % 16 == 0 and conv.dim >= 16 for conv in student.frontend.convs)


def test_what_an_earlier_cut_left_is_not_a_round_width() -> None:
    teacher = dataclasses.replace(TWELVE, layers=(LayerConfig(6, 32, 100),) * 2)
    plan = make_plan(teacher, ("ffn",))
    budget = Budget(BudgetConfig(keep=0.99, round_to=8), teacher, plan)
    assert [budget.rounded(plan["layers.0.ffn"], count) for count in (0, 3, 5, 45, 97, 99, 100)] == [0, 0, 8, 48, 96, 100, 100]
    smaller = narrow(teacher, plan, {"layers.0.ffn": range(45), "layers.1.ffn": range(100)})
    left = make_plan(smaller, ("ffn",))
    budget = Budget(BudgetConfig(keep=0.99, round_to=8), smaller, left, teacher)
    assert [budget.rounded(left["layers.0.ffn"], count) for count in (3, 41, 45)] == [0, 40, 40]
    assert budget.wider(left["layers.0.ffn"], 40) == 40
    assert budget.rounded(left["layers.1.ffn"], 100) == 100


def test_a_file_says_the_same_after_a_round_trip(machine: str) -> None:
    written, read = from_record(record()), load_latency(machine)
    assert read == written
    assert read.total(TWELVE) == written.total(TWELVE)
    assert read.where.endswith("1 thread, 0.5 s")


def test_the_default_ships() -> None:
    assert json.loads(DEFAULT.read_text(encoding="utf-8"))["note"]
    assert float(load_latency().total(TWELVE)) > 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no latency file"),
        ("{", "is not JSON"),
        ('{"kind": "run"}', "is not a latency file"),
        (json.dumps({"kind": KIND, "coefficients": {}}), "is not complete"),
    ],
)
def test_other_files_are_refused_with_a_way_out(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"(?s){says}.*sottovoce bench --fit-cost"):
        Budget(BudgetConfig("latency", machine=str(path)), TWELVE, make_plan(TWELVE, ("ffn",)))


def test_coefficients_below_zero_are_refused() -> None:
    broken = record()
    broken["coefficients"]["ffn"]["macs"] = -1.0
    with pytest.raises(ValueError, match="no coefficient negative"):
        from_record(broken)


def test_config_errors_are_explained() -> None:
    with pytest.raises(ValueError, match=r"known: params, macs, latency"):
        BudgetConfig(unit="watts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add unit=latency"):
        BudgetConfig(machine="latency.json")
    with pytest.raises(ValueError, match="round_to must be at least 1"):
        BudgetConfig(round_to=0)
    budget = load_recipe("dphubert", ["pruning.budget={unit: latency, keep: 0.5, machine: a.json, round_to: 8}"]).pruning.budget
    assert budget == BudgetConfig("latency", 0.5, machine="a.json", round_to=8)


def test_the_grid_has_parts_of_every_kind() -> None:
    timed = {part.kind for config in grid().values() for part in encoder_parts(config, seconds=1.0).values()}
    assert timed == set(TERMS)


def test_the_default_says_what_every_kind_of_part_takes() -> None:
    timed = {kind: tuple(terms) for kind, terms in load_latency().coefficients.items()}
    assert timed.keys() <= TERMS.keys()
    assert {kind: timed[kind if kind in timed else ALIKE[kind]] for kind in TERMS} == TERMS


@pytest.mark.parametrize("kind", ALIKE)
def test_a_file_without_a_later_kind_takes_a_kind_of_about_the_same_cost(kind: str) -> None:
    content, known = record(), from_record(record())
    part = next(part for config in grid().values() for part in encoder_parts(config, seconds=0.5).values() if part.kind == kind)
    like = {term: known.coefficients[ALIKE[kind]][term] for term in part.terms}
    del content["coefficients"][kind]
    assert float(from_record(content).of(part)) == pytest.approx(sum(like[term] * float(part.terms[term]) for term in like))
    assert float(from_record(content).of(part)) != pytest.approx(float(known.of(part)))


def test_a_file_without_a_kind_of_part_is_refused_where_the_part_is() -> None:
    content = record()
    del content["coefficients"]["glu.batch"]
    model = from_record(content)
    assert float(model.total(TWELVE)) > 0
    with pytest.raises(ValueError, match=r"has no timings for parts of kind 'glu\.batch'.*sottovoce bench --fit-cost"):
        model.total(STYLES["conformer"])


def test_coefficients_come_back_from_times_that_they_made() -> None:
    truth = from_record(record())
    parts = [
        Timeable(f"{name} {at}", part, lambda: None)
        for name, config in grid().items()
        for at, part in encoder_parts(config, seconds=0.5).items()
        if part.terms["call"]
    ]
    times = {part.name: float(truth.of(part.part)) for part in parts}
    coefficients, errors = fit.fitted(parts, times)
    fitted = LatencyModel(coefficients, 0.5, 1, "")
    assert all(error["worst"] < 0.01 for error in errors.values())  # percent
    assert float(fitted.total(TWELVE)) == pytest.approx(float(truth.total(TWELVE)), rel=1e-4)


def test_no_coefficient_is_negative() -> None:
    matrix = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    assert fit.nonnegative(matrix, torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)).tolist() == pytest.approx([1.0, 2.0])
    falling = fit.nonnegative(matrix, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert falling.tolist() == pytest.approx([2.0, 0.0])  # the mean, and no slope


def test_a_fit_makes_a_file_that_a_budget_reads(tmp_path: Path) -> None:
    layers = (LayerConfig(2, 16, 32), LayerConfig(1, 16, 8))
    small = EncoderConfig(front((16,) * 7, "group"), 32, PositionConfig(16, 4), layers)
    result = fit.fit(0.5, threads=1, rounds=1, shapes={"small": small}, whole={"small": small})
    whisper, moonshine = (dataclasses.replace(STYLES[style], window=0) for style in ("whisper", "moonshine"))
    found = fit.fit(0.5, threads=1, rounds=1, shapes={"whisper": whisper, "moonshine": moonshine}, whole={"whisper": whisper})
    assert {"log_mel", "conv.whole", "conv.whole.normed", "attention", "attention.rotary_heads"} < found["coefficients"].keys()
    assert found["whole"]["whisper"]["predicted_ms"] > 0
    ledger.write(tmp_path / "a.json", result)
    assert load_latency(tmp_path / "a.json").seconds == 0.5
    assert result["whole"]["small"]["ms"] > 0
    assert result["error_percent"]["ffn"]["parts"] == 2
    with pytest.raises(ValueError, match="too short"):
        fit.fit(0.1)


@pytest.mark.slow
def test_prediction_and_measurement_rank_models_alike() -> None:
    fbank = FrontendConfig((), fbank=FbankConfig())
    layers = {"few": (LayerConfig(2, 32, 100),) * 4, "many": (LayerConfig(6, 32, 768),) * 12}
    models = {
        f"{name}, {size}": EncoderConfig(frontend, 192, PositionConfig(128, 16), layer)
        for name, frontend in (
            ("wide", front((256,) * 7, "group")),
            ("narrow", front((64,) * 7, "group")),
            ("fbank", fbank),
        )
        for size, layer in layers.items()
    }
    models_ms = fit.fit(2.0, threads=1, rounds=3, whole=models)["whole"]
    for a in models_ms.values():
        for b in models_ms.values():
            if a["ms"] > 1.2 * b["ms"]:
                assert a["predicted_ms"] > b["predicted_ms"], models_ms


def test_a_part_knows_its_kind() -> None:
    parts = encoder_parts(STYLES["wavlm-base"], seconds=0.5)
    kinds = {name: part.kind for name, part in parts.items()}
    assert kinds["frontend.convs.0"] == "conv.first.group"
    assert kinds["frontend.convs.1"] == "conv.group"
    assert kinds["layers.0.attention"] == "attention.relative"
