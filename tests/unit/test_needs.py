"""What is said of a run's memory beforehand."""

from __future__ import annotations

from dataclasses import replace

import torch

from sottovoce.encoder import Encoder
from sottovoce.train.needs import GIB, Needs, estimate, saved_bytes
from sottovoce.train.recipe import load_recipe
from tests.conftest import tiny_shape


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
    gpu = torch.device("cuda")
    full, half = (estimate(replace(recipe, teacher_precision=kind), encoder, tiny_shape(), gpu) for kind in ("fp32", "bf16"))
    assert half.teacher == full.teacher / 2
    assert half.student == full.student > 16 * sum(weight.numel() for weight in encoder.parameters())


def test_a_teacher_prepared_for_inference_has_its_weights_twice() -> None:
    recipe, encoder = load_recipe("dphubert"), Encoder(tiny_shape())
    gpu, cpu = (estimate(recipe, encoder, tiny_shape(), torch.device(kind)) for kind in ("cuda", "cpu"))
    assert cpu.teacher - gpu.teacher == 4 * sum(weight.numel() for weight in encoder.parameters())
    mixed = estimate(replace(recipe, precision="bf16"), encoder, tiny_shape(), torch.device("cpu"))
    assert mixed.teacher == gpu.teacher


def test_says_what_to_do_when_it_will_not_fit() -> None:
    needs = Needs(4.0 * GIB, 8.0 * GIB, 12.0 * GIB)
    assert "24" in needs.text(16) or "30" in needs.text(16)
    assert "seconds_per_batch" in needs.warning(8.0 * GIB)
    assert not needs.warning(64.0 * GIB)
    assert not needs.warning(None)
