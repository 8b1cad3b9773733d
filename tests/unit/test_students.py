"""Student designs: where the first weights come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.students.layers import chosen
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
    assert chosen(12, 2, "spaced") == [5, 11]
    assert chosen(3, 2, "spaced") == [0, 2]
    cls = STUDENTS.get("layers")
    student = cls(cls.Config(count=2, which="spaced")).build(teacher)
    torch.testing.assert_close(student.layers[1].state_dict(), teacher.encoder.layers[2].state_dict())


@pytest.mark.parametrize("name", ["copy", "layers", "narrow"])
def test_a_student_that_joins_frames_starts_from_their_mean(name: str, teacher: Pretrained) -> None:
    cls, wave = STUDENTS.get(name), torch.randn(2, 8000)
    student = cls(cls.Config(join=2)).build(teacher).eval()
    ours, theirs = student(wave, torch.tensor([8000, 5000])), teacher.encoder(wave).hidden[0]
    pairs = theirs[:, : theirs.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2)
    assert ours.lengths is not None
    assert ours.lengths.tolist() == [12, 7]
    torch.testing.assert_close(ours.hidden[0][0], pairs[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(student.config.frontend.stride, 640)


def test_a_random_student_may_join_frames() -> None:
    cls = STUDENTS.get("random")
    small = {"dim": 32, "depth": 1, "heads": 2, "ffn_dim": 16, "position_kernel": 4, "position_groups": 2, "conv_dims": (4,) * 7}
    for frontend in ("wave", "fbank"):
        student = cls(cls.Config(join=3, frontend=frontend, **small)).build(None).eval()
        assert student(torch.randn(1, 16_000)).last.shape[1] == 16


def test_more_layers_than_the_teacher_has_are_refused(teacher: Pretrained) -> None:
    cls = STUDENTS.get("layers")
    with pytest.raises(ValueError, match="a teacher that has 3"):
        cls(cls.Config(count=4)).build(teacher)


class TestNarrow:
    def build(self, teacher: Pretrained, **config: Any) -> Encoder:
        cls = STUDENTS.get("narrow")
        student: Encoder = cls(cls.Config(**config)).build(teacher).eval()
        return student

    def test_is_the_teacher_when_nothing_is_asked(self, teacher: Pretrained) -> None:
        wave = torch.randn(2, 8000)
        assert torch.equal(self.build(teacher)(wave).last, teacher.encoder(wave).last)

    def test_has_the_widths_that_were_asked_for(self, teacher: Pretrained) -> None:
        want = {"dim": 16, "depth": 2, "heads": 2, "ffn_dim": 24, "conv_dims": (8,) * 7}
        for start in ("cut", "random"):
            student = self.build(teacher, start=start, **want)
            config = student.config
            assert (config.dim, len(config.layers)) == (16, 2)
            assert {(layer.num_heads, layer.ffn_dim) for layer in config.layers} == {(2, 24)}
            assert {conv.dim for conv in config.frontend.convs} == {8}
            assert torch.isfinite(student(torch.randn(2, 8000)).last).all()

    def test_keeps_the_units_that_matter(self, teacher: Pretrained) -> None:
        """Units and dimensions that do nothing go first, and their going changes nothing."""
        encoder = teacher.encoder
        with torch.no_grad():
            for layer in encoder.layers:
                layer.ffn.down_proj.weight[:, 10:50] = 0
                layer.attention.out_proj.weight[:, 8:16] = 0
        wave = torch.randn(2, 8000)
        student = self.build(teacher, heads=3, ffn_dim=24)
        torch.testing.assert_close(student(wave).last, encoder(wave).last, atol=1e-5, rtol=1e-5)

    def test_thins_conformers_too(self) -> None:
        cls = STUDENTS.get("random")
        like = (
            cls(cls.Config(dim=32, depth=2, heads=4, ffn_dim=48, layer="conformer", frontend="fbank", kernel=7))
            .build(None)
            .eval()
        )
        teacher = Pretrained(like, like.config, "wav2vec2_bert", False, "here")
        student = self.build(teacher, dim=24, depth=1, heads=2, ffn_dim=16, glu_dim=8)
        layer = student.config.layers[0]
        assert (student.config.dim, layer.num_heads, layer.ffn1_dim, layer.ffn_dim, layer.glu_dim) == (24, 2, 16, 16, 8)
        assert torch.isfinite(student(torch.randn(2, 8000)).last).all()

    def test_keeps_the_dimensions_that_matter(self, teacher: Pretrained) -> None:
        encoder, groups = teacher.encoder, teacher.shape.position.groups
        width = teacher.shape.dim // groups
        idle = [group * width + width - 1 for group in range(groups)]  # the last channel of every group
        with torch.no_grad():
            for name, tensor in encoder.state_dict().items():
                if (
                    tensor.dim() > 1
                    and tensor.shape[0] == 32
                    and "_proj" not in name.replace("out_proj", "").replace("down_proj", "")
                ):
                    tensor[idle] *= 1e-3
                if tensor.dim() > 1 and tensor.shape[-1] == 32:
                    tensor[..., idle] *= 1e-3
        student = self.build(teacher, dim=teacher.shape.dim - groups)
        kept = [i for i in range(32) if i not in idle]
        assert torch.equal(student.frontend.projection.weight, encoder.frontend.projection.weight[kept])

    def test_widths_that_cannot_be_had_are_refused(self, teacher: Pretrained) -> None:
        for config, says in (
            ({"dim": 18}, "multiple of 4"),
            ({"ffn_dim": 100}, "the teacher has 64"),
            ({"conv_dims": (8,)}, "7 numbers"),
        ):
            with pytest.raises(ValueError, match=says):
                self.build(teacher, **config)
