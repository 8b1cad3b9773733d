"""Students with a filter bank in place of the teacher's front end, students of chosen layers, and masks on the filter bank."""

from __future__ import annotations

import pytest
import torch

from sottovoce.core.registry import STUDENTS
from sottovoce.core.types import Batch
from sottovoce.data.augment import FeatureMasks
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.inference.packed import can_pack, pack
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, load_recipe
from tests.conftest import one_teacher, tiny_shape


def teacher() -> Pretrained:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    return Pretrained(encoder, encoder.config, "hubert", False, "here")


def student(of: Pretrained, **fields: object) -> Encoder:
    cls = STUDENTS.get("layers")
    return cls(cls.Config(**fields)).build(of)


def test_layers_are_chosen_by_number() -> None:
    of = teacher()
    chosen = student(of, numbers=(1, 3))
    assert torch.equal(chosen.layers[1].ffn.up_proj.weight, of.encoder.layers[2].ffn.up_proj.weight)
    with pytest.raises(ValueError, match=r"student\.numbers has 4, and the teacher has layers 1 to 3"):
        student(of, numbers=(1, 4))


def test_a_filter_bank_takes_the_place_of_the_convolutions() -> None:
    """Frames stay 20 ms; layers and positions are the teacher's; a row's frames do not depend on its padding."""
    of = teacher()
    made = student(of, count=2, frontend="fbank", mels=20, subsampler=16).eval()
    assert made.config.frontend.stride == 320
    assert torch.equal(made.layers[0].attention.q_proj.weight, of.encoder.layers[0].attention.q_proj.weight)
    wave = torch.randn(2, 16_000)
    wave[1, 9_000:] = 0
    with torch.no_grad():
        both, alone = made(wave, torch.tensor([16_000, 9_000])), made(wave[1:, :9_000])
        assert abs(both.last.shape[1] - of.encoder(wave).last.shape[1]) <= 1
    assert both.lengths is not None
    end = int(both.lengths[1])
    assert end == alone.last.shape[1]
    torch.testing.assert_close(both.last[1:, :end], alone.last, atol=1e-4, rtol=1e-3)
    if can_pack():
        torch.testing.assert_close(pack(made)(wave).last, made(wave).last, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stack", [1, 2])
def test_masks_hide_bands_and_times(stack: int) -> None:
    x = torch.arange(2 * 50 * stack * 10, dtype=torch.float32).view(2, 50, stack * 10)
    mean = x.mean((1, 2), keepdim=True)
    masked = FeatureMasks(bands=1, band_width=4)(x, stack)
    hidden = (masked != x) | (x == mean)
    assert torch.equal(masked, torch.where(hidden, mean, x))
    assert torch.equal(hidden.all(1), hidden.any(1))  # whole bands
    assert torch.equal(hidden[..., :10], hidden[..., -10:])  # in all stacked frames
    widths = [int((FeatureMasks(times=1, time_width=8)(x, stack) != x).any(2).sum(1).max()) for _ in range(30)]
    assert 0 < max(widths) <= 8 // stack


def test_masks_are_drawn_in_training_only_and_leave_no_trace() -> None:
    of = one_teacher()
    encoder = student(of.origin, count=2, frontend="fbank", mels=20, subsampler=16)
    recipe = load_recipe("distilhubert")
    learner = Learner(encoder, recipe.objectives, of, Masking(), feature_masks=FeatureMasks(bands=2, band_width=8))
    seen = []
    handle = encoder.frontend.convs[0].register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    batch = Batch(torch.randn(2, 16_000))
    for mode in (True, False):
        learner.train(mode)
        drawn = learner.draw(batch)
        learner(drawn, learner.targets(drawn))
    handle.remove()
    assert not torch.allclose(seen[0], seen[1])
    assert not encoder.frontend.features._forward_hooks


def test_masks_need_a_filter_bank() -> None:
    with pytest.raises(ValueError, match="reads the waveform"):
        Learner(Encoder(tiny_shape()), load_recipe("dphubert").objectives, one_teacher(), Masking(), None, FeatureMasks(bands=1))
    with pytest.raises(ValueError, match="compile: false"):
        load_recipe("distilhubert", ["compile=true", "feature_masks.bands=1"])
