"""Digests of models: of all that their output depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn


def fingerprint(encoder: nn.Module, normalized: bool) -> str:
    """Hash of the weights, the shape and the preparation of the input."""
    digest = hashlib.sha256(f"{type(encoder).__name__} {getattr(encoder, 'config', '')} {normalized}".encode())
    extractor = getattr(encoder, "extractor", None)  # of a model that runs inside transformers
    if extractor is not None and hasattr(extractor, "to_dict"):
        digest.update(json.dumps(extractor.to_dict(), sort_keys=True, default=_as_lists).encode())
    for key, value in sorted(encoder.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _as_lists(value: Any) -> Any:
    """Arrays (mel filters, windows) as lists."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
