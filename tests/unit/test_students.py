"""Student designs: where the first weights come from."""

from __future__ import annotations

import pytest
import torch

from sottovoce.encoder import Encoder
from sottovoce.families import Pretrained
from sottovoce.registry import STUDENTS
from tests.conftest import tiny_shape


@pytest.fixture
def teacher() -> Pretrained:
    torch.manual_seed(0)
    return Pretrained(Encoder(tiny_shape()).reset_parameters().eval(), tiny_shape(), "hubert", False, "here")


def test_the_first_layers_say_what_the_teachers_first_layers_say(teacher: Pretrained) -> None:
    cls, wave = STUDENTS.get("layers"), torch.randn(2, 8000)
    student = cls(cls.Config(count=2)).build(teacher).eval()
    ours, theirs = student(wave), teacher.encoder(wave)
    assert len(ours.hidden) == 3
    for mine, other in zip(ours.hidden, theirs.hidden, strict=False):
        assert torch.equal(mine, other)


def test_spaced_layers_end_with_the_teachers_last(teacher: Pretrained) -> None:
    cls = STUDENTS.get("layers")
    student = cls(cls.Config(count=2, which="spaced"))
    assert student.chosen(12) == [5, 11]
    assert student.chosen(3) == [0, 2]
    made = student.build(teacher)
    torch.testing.assert_close(made.layers[1].state_dict(), teacher.encoder.layers[2].state_dict())


def test_more_layers_than_the_teacher_has_are_refused(teacher: Pretrained) -> None:
    cls = STUDENTS.get("layers")
    with pytest.raises(ValueError, match="the teacher has 3 layers"):
        cls(cls.Config(count=4)).build(teacher)
