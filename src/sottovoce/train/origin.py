"""The model that a student comes from, to see how far training has moved it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import named_tensors, prepare, prepare_config


def origin_tensors(start: str | Encoder, like: Encoder, units: Sequence[str]) -> Mapping[str, Tensor]:
    """The tensors of `start`, a model or its source, named and shaped like those of `like`, which is prepared for `units`.

    ValueError if it has another shape, or if the units are directions of low rank, which no other model has.
    """
    encoder = load_pretrained(start).encoder if isinstance(start, str) else start
    if any(unit.partition(":")[0] == "low_rank" for unit in units):
        raise ValueError("directions of low rank have no weights to compare; take low_rank out of pruning.units")
    if isinstance(encoder, Encoder):  # what it is padded to does not change weights
        if prepare_config(encoder.config, units).to_dict() | {"window": 0} == like.config.to_dict() | {"window": 0}:
            device = like.frontend.projection.weight.device
            return {name: tensor.to(device) for name, tensor in named_tensors(prepare(encoder, units)).items()}
    which = start if isinstance(start, str) else "the student at the start"
    raise ValueError(f"'{which}' has another shape than the student; name the model from which its training began")
