"""Fidelity: perfect for a model and itself, blind to a linear map, and low for strangers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sottovoce.encoder import Encoder
from sottovoce.tasks.fidelity import Fidelity
from sottovoce.types import Batch, Features
from tests.conftest import tiny_shape


def batches() -> list[Batch]:
    return [Batch(torch.randn(4, 16_000)) for _ in range(4)]


def test_a_model_is_faithful_to_itself() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(Fidelity.Config()).run(encoder, copy.deepcopy(encoder), batches())
    assert found["mean"]["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert found["mean"]["explained"] == pytest.approx(1.0, abs=1e-2)
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2, 3]


class Rotated(nn.Module):
    """The same model in another basis."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.turn = encoder, torch.linalg.qr(torch.randn(32, 32))[0]

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        hidden = [x @ self.turn for x in self.encoder(wave, lengths).hidden]
        return Features(hidden, None, hidden[0], hidden[-1])


def test_a_rotation_is_undone_by_the_map_and_seen_by_the_plain_cosine() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(Fidelity.Config()).run(Rotated(encoder), encoder, batches())
    assert found["mean"]["mapped"] > 0.99
    assert abs(found["mean"]["cosine"]) < 0.6


def test_a_stranger_explains_less() -> None:
    encoder, other = (Encoder(tiny_shape()).reset_parameters().eval() for _ in range(2))
    own, strange = (Fidelity(Fidelity.Config()).run(model, encoder, batches())["mean"]["explained"] for model in (encoder, other))
    assert strange < own - 0.1


def test_no_audio_is_an_error() -> None:
    encoder = Encoder(tiny_shape())
    with pytest.raises(ValueError, match="no held-out audio"):
        Fidelity(Fidelity.Config()).run(encoder, encoder, [])
