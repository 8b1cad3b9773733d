"""DPHuBERT's distillation loss against the public code's own numbers (tests/golden/data)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.core.types import Batch, Features
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.layer_to_layer import LayerToLayer

DATA = Path(__file__).parent / "data"


def features(golden: dict[str, torch.Tensor], name: str) -> Features:
    hidden = [golden[f"{name}_{i}"] for i in range(5)]
    return Features(hidden, None, hidden[0], hidden[-1])


@pytest.mark.parametrize("model", ["hubert-base", "wavlm-base"])
@pytest.mark.parametrize(("kind", "key"), [("raw", "loss_l1_rawcos"), ("log_sigmoid", "loss_l1_logsigcos")])
def test_the_reference_codes_loss(model: str, kind: str, key: str) -> None:
    golden = load_file(DATA / model / "golden.safetensors")
    config = LayerToLayer.Config(layers=(("0",), ("2", "4")), cosine_kind=kind)  # type: ignore[arg-type]
    student, teacher = features(golden, "hidden_gated_heads_ffn"), features(golden, "hidden_full")
    objective = LayerToLayer(config, EncoderShape(48, 4), EncoderShape(48, 4))
    loss = objective(student, teacher, student.valid(), Batch(golden["wave"]))
    torch.testing.assert_close((loss.total / int(student.valid().sum())).detach(), golden[key].squeeze(), rtol=1e-4, atol=1e-5)
