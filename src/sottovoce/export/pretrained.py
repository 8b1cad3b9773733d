"""An encoder in the format of a transformers class, for teachers that we train ourselves."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..encoder import Encoder
from ..registry import FAMILIES
from .store import replacing


def save_pretrained(
    folder: str | Path, encoder: Encoder, family: str, *, normalize: bool, mask_vector: Tensor | None = None, half: bool = False
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json as `family`'s transformers class reads them.

    half: store float16 (loading converts back). mask_vector: (D,), what masked frames were replaced by in pre-training.
    ValueError when no class of the family can hold this shape.
    """
    found = FAMILIES.get(family)()
    config, tensors = found.to_hf(encoder.config, encoder.state_dict(), mask_vector)
    if half:
        tensors = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
        config["dtype"] = "float16"
    preprocessor = found.preprocessor(encoder.config, normalize)
    with replacing(Path(folder)) as new:
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (new / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n", encoding="utf-8")
