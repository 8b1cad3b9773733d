"""What is said of a run's memory beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from sottovoce.core.types import Batch, Features
from sottovoce.data import DataConfig, open_data
from sottovoce.encoder import Encoder
from sottovoce.hosts.load import load_host
from sottovoce.hub.pretrained import Pretrained
from sottovoce.train.needs import GIB, LOGITS, SPOKEN, WORKING, Memory, estimate, host_bytes, saved_bytes
from sottovoce.train.recipe import load_recipe
from sottovoce.train.teachers import TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher
from tests.conftest import tiny_shape
from tests.unit import test_recognisers as recognisers

BATCH = (1, 16_000)


def a_teacher(precision: Literal["fp32", "bf16"] = "fp32", pack: bool = False) -> EncoderTeacher:
    settings = TeacherSettings(torch.device("cpu"), precision, pack)
    return EncoderTeacher(EncoderTeacher.Config(), settings, Pretrained(Encoder(tiny_shape()), tiny_shape(), "x", False, "x"))


def test_counts_what_a_forward_pass_keeps() -> None:
    """Against the storages that a real pass of the same shape keeps."""
    config, kept = tiny_shape(), {}
    encoder = Encoder(config).train()
    weights = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        last = encoder(torch.randn(2, 16_000)).last
    real = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    assert last.requires_grad
    assert abs(saved_bytes(config, 2, 16_000) - real) < 0.1 * real


def test_twice_the_audio_takes_about_twice_the_activations() -> None:
    once, twice = (saved_bytes(tiny_shape(), 1, seconds * 16_000) for seconds in (5, 10))
    assert 1.8 < twice / once < 2.5


def test_half_a_teacher_takes_half_the_memory() -> None:
    recipe, encoder = load_recipe("dphubert"), Encoder(tiny_shape())
    full, half = (estimate(recipe, encoder, [a_teacher(kind)], BATCH) for kind in ("fp32", "bf16"))
    assert half.teachers == full.teachers / 2
    assert half.student == full.student > 16 * sum(weight.numel() for weight in encoder.parameters())


def test_a_teacher_prepared_for_inference_has_its_weights_twice() -> None:
    recipe, encoder = load_recipe("dphubert"), Encoder(tiny_shape())
    plain, packed = (estimate(recipe, encoder, [a_teacher(pack=pack)], BATCH) for pack in (False, True))
    assert packed.teachers - plain.teachers == 4 * sum(weight.numel() for weight in encoder.parameters())
    assert estimate(recipe, encoder, [a_teacher("bf16", pack=True)], BATCH).teachers == plain.teachers / 2


def test_two_teachers_take_the_memory_of_both() -> None:
    recipe, encoder = load_recipe("dphubert"), Encoder(tiny_shape())
    one, two = (estimate(recipe, encoder, [a_teacher()] * count, BATCH) for count in (1, 2))
    assert two.teachers == 2 * one.teachers
    assert one.loading < two.loading < 2 * one.loading


def test_says_what_to_do_when_it_will_not_fit() -> None:
    needs = Memory(4.0 * GIB, 8.0 * GIB, 12.0 * GIB)
    assert 24 * GIB < needs.total < 32 * GIB
    assert f"about {needs.total / GIB:.1f} GiB" in needs.text()
    assert "seconds_per_batch" in needs.warning(8.0 * GIB)
    assert not needs.warning(64.0 * GIB)
    assert not needs.warning(None)


@pytest.mark.parametrize("crop", ["shortest", "none"])
def test_the_batch_that_counts_is_the_largest_that_the_data_give(crop: Literal["shortest", "none"], speech_folder: Path) -> None:
    """Not what fits into ``seconds_per_batch``: 160 s of a folder with less."""
    data = open_data(speech_folder, DataConfig(crop=crop, min_seconds=0.5, max_seconds=2, workers=0, valid_share=0.2))
    rows, samples = data.largest
    batches = [data.train.plan.job(0, index) for index in range(len(data.train.plan.batches(0)))]
    shapes = [(len(job.samples), max(job.samples)) for job in batches] + [(len(b.wave), b.wave.shape[1]) for b in data.valid]
    assert rows * samples == max(count * length for count, length in shapes)
    assert rows * samples / 16_000 < 60
    recipe, encoder = load_recipe("dphubert"), Encoder(tiny_shape())
    assert estimate(recipe, encoder, [], data.largest).activations < estimate(recipe, encoder, [], (10, 250_000)).activations / 2


def test_passes_count_the_batches_of_the_data(speech_folder: Path) -> None:
    data = open_data(speech_folder, DataConfig(seconds_per_batch=4, min_seconds=0.5, max_seconds=2, workers=0))
    assert data.passes(3 * data.train.batches_per_epoch) == 3


@pytest.mark.parametrize("style", ["half turned", "80 mels"])
def test_counts_what_a_host_keeps(style: str, tmp_path: Path) -> None:
    """Against the storages that a real pass keeps, of which the pass of shapes leaves none behind."""
    host = load_host(recognisers.save(style, tmp_path, "ForConditionalGeneration"))
    assert host is not None
    rows, samples, kept = 2, 32_000, dict[int, int]()
    weights = {weight.untyped_storage().data_ptr() for weight in host.rest.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    plain = host_bytes(host, "none", rows, samples)
    x = torch.randn(rows, int(host.pretrained.shape.frontend.frames(samples)), host.pretrained.dim, requires_grad=True)
    batch, tokens = Batch(torch.zeros(rows, samples)), torch.zeros(rows, 2 + SPOKEN * 2, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logits = host.outputs(Features([x], None, x, x), batch, tokens).logits
    sizes = [4 * weight.numel() for weight in host.rest.parameters()]
    real = sum(size for key, size in kept.items() if key not in weights) + 4 * LOGITS * logits.numel()
    assert abs(plain - sum(sizes) - WORKING * real) < 0.1 * WORKING * real
    assert host_bytes(host, "decoder", rows, samples) - plain == 4 * sum(sizes)  # a copy, with gradient and moments
    assert sum(sizes) < host_bytes(host, "head", rows, samples) - plain < 4 * sum(sizes)
    assert "host" in Memory(0.0, 0.0, 0.0, host=plain).text()
