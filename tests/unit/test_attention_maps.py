"""Attention maps that an encoder gives with its features, and the objective that compares them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from sottovoce.core.types import Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.objectives.temporal_relation import TemporalRelation
from sottovoce.pruning import GatedEncoder
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, ObjectiveChoice
from sottovoce.train.target_store import TargetStore
from sottovoce.train.targets import Teachers
from tests.conftest import one_teacher, tiny_shape
from tests.unit.test_families import ours, speech, tiny

MAPS = {"star": ObjectiveChoice("temporal_relation", TemporalRelation.Config(layerwise=0, intra=0, attention=1.0))}


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_maps_are_those_of_transformers(family: str) -> None:
    model = tiny(family)
    model.set_attn_implementation("eager")
    wave, _ = speech([8_000])
    with torch.no_grad():
        theirs = model(wave, output_attentions=True).attentions
        found = ours(model, family).eval()(wave, maps=True)
    assert len(found.maps) == len(theirs) == 3
    for mine, other in zip(found.maps, theirs, strict=True):
        torch.testing.assert_close(mine, other.mean(1), atol=1e-5, rtol=1e-3)


def test_maps_change_no_feature_and_end_with_the_recording() -> None:
    shape = tiny_shape(4)
    gone = dataclasses.replace(shape.layers[0], attention=False, num_heads=0)
    taken = dataclasses.replace(shape.layers[0], reuse=True)
    encoder = (
        Encoder(dataclasses.replace(shape, layers=(shape.layers[0], taken, gone, shape.layers[0]))).reset_parameters().eval()
    )
    wave, lengths = torch.randn(2, 8_000), torch.tensor([8_000, 5_000])
    plain, found = encoder(wave, lengths), encoder(wave, lengths, maps=True)
    for before, after in zip(plain.hidden, found.hidden, strict=True):
        torch.testing.assert_close(before, after)
    assert not plain.maps
    first, second, third, last = found.maps
    torch.testing.assert_close(first, second)
    assert not third.any()
    for each in (first, last):
        torch.testing.assert_close(each[0].sum(-1), torch.ones(each.shape[1]))
        assert not each[1, :15, 15:].any()
    row = found.rows([1]).maps[0]
    torch.testing.assert_close(row[0], first[1])
    frames = plain.last.shape[1]
    longer = found.on_frames(frames + 1).maps[0]
    assert longer.shape == (2, frames + 1, frames + 1)
    torch.testing.assert_close(longer[:, :frames, :frames], first)


def test_a_student_learns_the_teachers_maps(tmp_path: Path) -> None:
    teachers = one_teacher()
    said: list[str] = []
    teachers = Teachers(teachers.each, "teacher", TargetStore(tmp_path, 1e9, said.append))
    student = Encoder(tiny_shape(2)).reset_parameters()
    gated = GatedEncoder(student, ("head",))
    learner = Learner(student, MAPS, teachers, Masking()).eval()
    learner.student = gated
    drawn = learner.draw(Batch(torch.randn(2, 8000)))
    for _ in range(2):
        loss = learner(drawn, learner.targets(drawn))["star"].total
    loss.backward()
    assert float(student.layers[0].attention.q_proj.weight.grad.abs().max()) > 0
    assert student.layers[1].ffn.up_proj.weight.grad is None or not student.layers[1].ffn.up_proj.weight.grad.any()
    assert said == ["targets with attention maps are not kept on disk, because they are too large"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_window_has_no_maps() -> None:
    windowed = Encoder(dataclasses.replace(tiny_shape(), window=16_000)).reset_parameters()
    with pytest.raises(ValueError, match="no attention maps"):
        windowed(torch.randn(1, 8_000), maps=True)
    with pytest.raises(ValueError, match="leave the attention loss out"):
        Learner(Encoder(tiny_shape()), MAPS, one_teacher(windowed), Masking())
    answer = one_teacher()["teacher"].answer(Batch(torch.randn(1, 8_000)))
    assert isinstance(answer, Features)
    assert not answer.maps
