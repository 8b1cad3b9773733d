"""What goes from layer to layer in training: the teacher's states, and scaled gradients."""

from __future__ import annotations

import pytest
import torch

from sottovoce.core.types import Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.layer_to_layer import LayerToLayer
from sottovoce.students.layers import take
from sottovoce.train.between import fed, scaled_gradients
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, ObjectiveChoice, load_recipe
from sottovoce.train.stages.train import Train
from sottovoce.train.work import Work
from tests.conftest import one_teacher, tiny_shape

BLOCKS = LayerToLayer.Config(layers=(("1/3", "2/3", "3/3"),), map="none", l1=0, cosine=0, mse=1)


def teaching(encoder: Encoder, student: Encoder, config: LayerToLayer.Config = BLOCKS) -> Learner:
    return Learner(student, {"blocks": ObjectiveChoice("layer_to_layer", config)}, one_teacher(encoder), Masking()).eval()


def loss_of(learner: Learner, batch: Batch) -> float:
    drawn = learner.draw(batch)
    return float(learner(drawn, learner.targets(drawn))["blocks"].total.detach())


def test_a_layer_that_is_fed_reads_what_it_is_given() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    wave, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    plain = encoder(wave, lengths)
    other = torch.randn_like(plain.hidden[1])
    given = encoder(wave, lengths, between=fed({1: other}))
    torch.testing.assert_close(given.hidden[1], plain.hidden[1])  # what it makes of the wave, not what the next layer reads
    expected = take(encoder, [0, 1, 2]).layers[1](other, None, None)[0]
    torch.testing.assert_close(given.hidden[2][0], expected[0])
    assert not torch.allclose(given.hidden[2], plain.hidden[2])
    front = encoder(wave, lengths, between=fed({0: plain.hidden[0].flip(-1)}))
    torch.testing.assert_close(front.hidden[0], plain.hidden[0])
    assert not torch.allclose(front.hidden[1], plain.hidden[1])


def test_teacher_fed_blocks_do_not_know_of_each_other() -> None:
    """A broken layer spoils what is learned of the layers above it, unless they are fed by the teacher."""
    teacher = Encoder(tiny_shape()).reset_parameters()
    student = take(teacher, [0, 1, 2])
    with torch.no_grad():
        student.layers[0].ffn_norm.weight.mul_(-1)
    batch = Batch(torch.randn(2, 8000))
    whole, blocks = teaching(teacher, student), teaching(teacher, student)
    blocks.feed()
    assert blocks.fed == {1: ("teacher", 1), 2: ("teacher", 2)}
    drawn = blocks.draw(batch)
    answer = blocks.targets(drawn)["teacher", "clean"]
    assert isinstance(answer, Features)
    first = 2 * 24 * float((student.eval()(batch.wave).hidden[1] - answer.hidden[1]).detach().square().mean()) / 3
    assert loss_of(blocks, batch) == pytest.approx(first, rel=1e-4)  # of the broken layer alone
    assert loss_of(whole, batch) > 1.5 * first
    for parameter in blocks.parameters():
        parameter.grad = None
    blocks(drawn, blocks.targets(drawn))["blocks"].total.backward()
    grads = [layer.ffn.up_proj.weight.grad for layer in student.layers]
    assert float(grads[0].abs().max()) > 0
    assert all(float(grad.abs().max()) < 1e-6 for grad in grads[1:])  # they are the teacher's already


def test_without_maps_a_student_must_be_as_wide_and_has_none_to_learn() -> None:
    with pytest.raises(ValueError, match="16 and 32 wide"):
        LayerToLayer(BLOCKS, EncoderShape(16, 3), EncoderShape(32, 3))
    with pytest.raises(ValueError, match="needs map: linear"):
        LayerToLayer.Config(map="none", standardize=True)
    objective = LayerToLayer(BLOCKS, EncoderShape(32, 3), EncoderShape(32, 6))
    assert objective.meetings() == {1: 2, 2: 4, 3: 6}
    assert not [parameter for parameter in objective.parameters() if parameter.requires_grad]
    maps, layers = objective.projections()
    assert [(float((each.weight - torch.eye(32)).abs().max()), layers[name]) for name, each in maps.items()] == [(0.0, [1, 2, 3])]


def test_blocks_need_layers_that_are_compared_without_a_map() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters()
    for config in (LayerToLayer.Config(), LayerToLayer.Config(layers=(("1/1",),), map="none")):
        with pytest.raises(ValueError, match="map: none"):
            teaching(encoder, take(encoder, [0, 1, 2]), config).feed()


def test_gradients_of_many_losses_do_not_add_up() -> None:
    x = torch.ones(1, 1, 1, requires_grad=True)
    between, kept, passed = scaled_gradients(3), [], x
    for i in range(4):
        given, passed = between(i, passed)
        kept.append(given)
    assert all(torch.equal(each, x) for each in kept)
    for i, expected in enumerate([1, 3 / 4 * 1 / 4, 3 / 4 * 2 / 3 * 1 / 3, 3 / 4 * 2 / 3 * 1 / 2 * 1 / 2]):
        (grad,) = torch.autograd.grad(kept[i].sum(), x, retain_graph=True)
        assert float(grad) == pytest.approx(expected)


def test_stages_say_what_is_between_layers() -> None:
    work, teachers = Work(Encoder(tiny_shape()).reset_parameters()), one_teacher()
    options, wave, sizes = ["objectives.layer_to_layer.layers=[['1/3','2/3','1/1']]"], torch.randn(2, 8000), {}
    for given, scales in ((["stages.whole.scale_gradients=true"], True), ([], False)):
        blocks, whole = load_recipe("teacher-fed", [*options, *given], fixed={"teacher": "x"}).build_stages()[:2]
        assert isinstance(blocks, Train)
        assert isinstance(whole, Train)
        assert blocks.trainee(work, teachers).fed
        learner = whole.trainee(work, teachers)
        assert not learner.fed
        drawn = learner.draw(Batch(wave))
        learner.total(learner(drawn, learner.targets(drawn)), torch.ones(1)).backward()
        sizes[scales] = float(work.encoder.frontend.projection.bias.grad.norm())
        work.encoder.zero_grad()
    assert 0 < sizes[True] < sizes[False] / 3  # a factor of at most 3/4 * 1/4 for each loss
    with pytest.raises(ValueError, match="no gradient passes"):
        load_recipe("teacher-fed", ["stages.blocks.scale_gradients=true"], fixed={"teacher": "x"})
