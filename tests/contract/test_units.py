"""What holds for every registered kind of unit, on a tiny encoder of every style of model that has it."""

from __future__ import annotations

import json

import pytest
import torch

from sottovoce.core.registry import STUDENTS, UNITS
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import (
    GateConfig,
    cut,
    encoder_cost,
    encoder_parts,
    full_widths,
    load_latency,
    make_plan,
    open_units,
    prepare,
    total,
)
from tests.unit.test_pruning_budget import flops
from tests.unit.test_pruning_exactness import check, draw
from tests.unit.test_pruning_styles import STYLES, all_units, make

CASES = [(unit, style) for style in STYLES for unit in all_units(style)]


@pytest.mark.parametrize("unit", UNITS.names())
class TestEveryKind:
    def test_some_model_has_it(self, unit: str) -> None:
        assert unit in {kind for kind, _ in CASES}
        assert len(UNITS.summary(unit)) > 10
        assert 0 < UNITS.get(unit)().drop(GateConfig()) < 1

    def test_its_parts_are_timed_and_the_default_knows_them(self, unit: str) -> None:
        kind = UNITS.get(unit)()
        parts = [part for config in kind.timed().values() for part in encoder_parts(config, seconds=0.5).values()]
        assert all(float(load_latency().of(part)) >= 0 for part in parts)

    def test_the_student_narrow_can_ask_for_it(self, unit: str) -> None:
        kind = UNITS.get(unit)()
        if kind.option is None:
            pytest.skip("a student does not choose how many")
        name, _, default = kind.option
        assert getattr(STUDENTS.get("narrow").Config(), name) == default
        assert set(kind.sizes(kind.sized(STYLES["mixed"], 2)).values()) <= {0, 2}
        with pytest.raises(ValueError, match=rf"student\.{name} .*, (at most|but the teacher has)"):
            kind.sized(STYLES["mixed"], 9999)


@pytest.mark.parametrize(("unit", "style"), CASES)
class TestOnAnEncoder:
    def test_the_cut_encoder_is_the_gated_one_and_costs_what_is_said(self, unit: str, style: str) -> None:
        student = check(make(style), (unit,), seed=2)
        cost = total(encoder_cost(student.config, seconds=0.5))
        assert cost.params == sum(tensor.numel() for tensor in student.state_dict().values())
        assert float(cost.macs) * 0.5 == pytest.approx(flops(student, 8000) / 2, rel=1e-3)

    def test_the_cut_shape_survives_json(self, unit: str, style: str) -> None:
        encoder = prepare(make(style), (unit,))
        plan = make_plan(encoder.config, (unit,))
        values = draw(plan, seed=5)
        config = cut(encoder, plan, values).config
        assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        widths = full_widths(config)
        assert all(widths[name] == len(units) for name, units in open_units(plan, values).items())

    def test_its_names_agree(self, unit: str, style: str) -> None:
        kind, config = UNITS.get(unit)(), STYLES[style]
        prepared = kind.prepared(config)
        assert kind.unprepared(prepared) == config
        sizes = kind.sizes(prepared)
        assert {group.name: group.size for group in kind.groups(prepared)} == {name: size for name, size in sizes.items() if size}
        assert kind.titles(prepared).keys() <= sizes.keys()
        parts = encoder_parts(config, seconds=0.5)
        assert {*kind.labels(config), *kind.covers(config)} <= parts.keys()
        assert set(kind.covers(config).values()) <= sizes.keys()


def test_cutting_a_whole_part_takes_its_units_too() -> None:
    encoder = make("mixed")
    plan = make_plan(encoder.config, ("head", "attention"))
    values = {group.name: torch.zeros(group.size) for group in plan if group.name == "layers.1.attention"}
    layer = cut(encoder, plan, values).config.layers[1]
    assert (layer.attention, layer.num_heads) == (False, 0)
