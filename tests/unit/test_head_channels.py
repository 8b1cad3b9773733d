"""Channels inside heads: preparing sorts them, scores keep their scale, streams and packed encoders know fewer of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sottovoce
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.hub.student import save_student
from sottovoce.inference.packed import fastest
from sottovoce.pruning import GatedEncoder, cut, make_plan, named_tensors, prepare
from sottovoce.pruning.apply import unit_matrix
from tests.unit.test_pruning_exactness import distance, draw
from tests.unit.test_pruning_styles import STYLES, make, waves

UNITS = ("query", "value")


@pytest.mark.parametrize("style", STYLES)
def test_preparing_sorts_channels_and_changes_nothing(style: str) -> None:
    encoder = make(style)
    prepared = prepare(encoder, UNITS)
    with torch.no_grad():
        assert distance(encoder(*waves(True)), prepared(*waves(True))) < 1e-4
    kinds = {group.kind for group in make_plan(prepared.config, UNITS)}
    turned = STYLES[style].distance is not None and STYLES[style].distance.kind != "rotary"  # type: ignore[union-attr]
    assert kinds == ({"value"} if turned else {"query", "value"})
    assert prepare(prepared, UNITS) is prepared
    weight = prepared.layers[1].attention.v_proj.weight.unflatten(0, (4, 12))
    out = prepared.layers[1].attention.out_proj.weight.unflatten(1, (4, 12))
    norms = weight.norm(dim=2) * out.norm(dim=0)
    bias = prepared.layers[1].attention.v_proj.bias
    if bias is None:
        assert bool((norms.diff(dim=1) <= 1e-6).all())
    else:
        assert float((norms.diff(dim=1) <= 1e-6).float().mean()) > 0.9


def test_a_unit_is_one_channel_of_every_head() -> None:
    encoder = prepare(make("hubert-base"), UNITS)
    group = make_plan(encoder.config, UNITS)["layers.0.value"]
    rows = unit_matrix(named_tensors(encoder), group)
    assert rows.shape == (12, 4 * (48 + 1 + 48))
    weight = encoder.layers[0].attention.v_proj.weight
    torch.testing.assert_close(rows[5, : 4 * 48], torch.cat([weight[h * 12 + 5] for h in range(4)]).detach())


def test_heads_and_their_channels_are_cut_together() -> None:
    encoder = make("wavlm-base")
    gated = GatedEncoder(encoder, ("head", *UNITS))
    values = {group.name: torch.ones(group.size) for group in gated.plan}
    values["layers.1.head"][2] = 0
    values["layers.1.query"][7:] = 0
    values["layers.1.value"][3:] = 0
    student = gated.cut(values)
    layer = student.config.layers[1]
    assert (layer.num_heads, layer.query_dim, layer.value_dim, layer.head_dim) == (3, 7, 3, 12)
    assert student.layers[1].attention.q_proj.weight.shape == (21, 48)
    assert student.layers[1].attention.out_proj.weight.shape == (48, 9)
    assert EncoderConfig.from_dict(json.loads(json.dumps(student.config.to_dict()))) == student.config
    assert student.layers[1].attention.scale == pytest.approx(12**-0.5)


@pytest.mark.parametrize("style", ["hubert-base", "wavlm-base", "w2v-bert-rotary", "moonshine"])
def test_students_say_the_same_packed_and_read_again(style: str, tmp_path: Path) -> None:
    encoder = prepare(make(style), (*UNITS, "low_rank"))
    plan = make_plan(encoder.config, ("head", *UNITS, "low_rank"))
    student: Encoder = cut(encoder, plan, draw(plan, seed=2))
    with torch.no_grad():
        assert distance(student(*waves(True)), fastest(student)(*waves(True))) < 1e-4
        save_student(tmp_path / "s", student, normalize=False, teacher="somewhere")
        assert distance(student(*waves(True)), sottovoce.load(tmp_path / "s")(*waves(True))) == 0
