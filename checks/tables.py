"""Prints the cost and latency of some encoders, part by part, as JSON. `same_numbers.py` runs it under two versions of sottovoce.

Its imports are all that it may need to know of a version; where a name moves, add the new place beside the old one.
"""

from __future__ import annotations

import json
import random
from typing import Any

import torch

from sottovoce.pruning import encoder_cost, full_widths, load_latency, total

try:
    from sottovoce.core.registry import FAMILIES
except ModuleNotFoundError:  # until 735a1fd
    from importlib import import_module

    FAMILIES = import_module("sottovoce.registry").FAMILIES

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "hubert base": ("hubert", BASE),
    "hubert large": ("hubert", {**LARGE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}),
    "wavlm base": ("wavlm", BASE),
    "data2vec base": ("data2vec_audio", BASE),
    "w2v-bert": ("wav2vec2_bert", LARGE),
    "conformer large": ("wav2vec2_conformer", LARGE),
}


def plain(value: Any) -> Any:
    """Numbers, and mappings of numbers, as JSON can hold them to the last bit."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "params"):
        return [float(value.params), float(value.macs)]
    return float(value)


def table(family: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Cost per part, for all units and for gates that are partly open, and latency."""
    config, draw = FAMILIES.get(family)().encoder_config(fields), random.Random(5)
    full = full_widths(config)
    whole = {name: draw.randint(1, int(count)) for name, count in sorted(full.items())}
    soft = {name: torch.tensor(draw.uniform(0.5, float(count))) for name, count in sorted(full.items())}
    latency = load_latency("")
    found: dict[str, Any] = {}
    for name, widths in {"full": None, "cut": whole, "gated": soft}.items():
        cost = encoder_cost(config, widths)
        found[name] = {**plain(cost), "total": plain(total(cost)), "milliseconds": plain(latency.total(config, widths))}
    return found


if __name__ == "__main__":
    print(json.dumps({name: table(family, fields) for name, (family, fields) in SHAPES.items()}))
