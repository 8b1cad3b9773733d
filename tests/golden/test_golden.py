"""The DPHuBERT code's own hidden states for the same weights (`data/README.md` says what each tensor is)."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained

torch.set_num_threads(1)

DATA = Path(__file__).parent / "data"
MODELS = ("hubert-base", "wavlm-base")


@torch.no_grad()
def differences(model: str) -> dict[str, float]:
    """Largest difference to each of the reference's hidden states, on valid frames."""
    golden = load_file(DATA / model / "golden.safetensors")
    with warnings.catch_warnings():  # there is no preprocessor_config.json
        warnings.simplefilter("ignore", UserWarning)
        found = load_pretrained(DATA / model)
    # The reference's group norm counts what stands in the padding, and there is signal in it, not zeros.
    frontend = dataclasses.replace(found.shape.frontend, norm_over_padding=True)
    encoder = Encoder(dataclasses.replace(found.shape, frontend=frontend)).eval()
    encoder.load_state_dict(found.encoder.state_dict())
    full, padded = encoder(golden["wave"]), encoder(golden["wave"], golden["lengths"])
    assert padded.lengths is not None
    assert padded.lengths.tolist() == golden["frames"].tolist()
    made = {}
    for i, (whole, part) in enumerate(zip(full.hidden, padded.hidden, strict=True)):
        made[f"hidden_full_{i}"] = (whole - golden[f"hidden_full_{i}"]).abs().max().item()
        made[f"hidden_len_{i}"] = (part - golden[f"hidden_len_{i}"])[padded.valid()].abs().max().item()
    return made


@pytest.mark.parametrize("model", MODELS)
def test_hidden_states(model: str) -> None:
    found = differences(model)
    assert len(found) == 10
    assert max(found.values()) < 2e-5, found
