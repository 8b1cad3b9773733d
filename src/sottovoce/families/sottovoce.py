"""Students that sottovoce wrote, so that a student can teach, or be cut, again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import EncoderConfig
from sottovoce.families.base import Family

PROJECTIONS = "projections."


@FAMILIES.register("sottovoce")
class Sottovoce(Family):
    """A folder written by sottovoce: config.json holds an `EncoderConfig`, the tensors carry our own names under ``encoder.``."""

    model_types = ("sottovoce",)
    prefix = "encoder"
    certain = True

    def encoder_config(self, hf: Mapping[str, Any]) -> EncoderConfig:
        try:
            return EncoderConfig.from_dict(hf["encoder"])
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ValueError(
                f"config.json does not describe an encoder of this version of sottovoce ({problem}); did a newer one write it?"
            ) from None

    def normalize(self, hf: Mapping[str, Any]) -> bool:
        wants = hf.get("normalize", hf["encoder"]["frontend"]["norm"] == "layer")
        if not isinstance(wants, bool):
            raise ValueError(f"config.json: normalize is {wants!r}; expected true or false")
        return wants

    def trunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if not name.startswith(PROJECTIONS)}

    def hf_name(self, ours: str) -> str:
        return ours

    def left_out(self, tensors: Iterable[str]) -> tuple[str, ...]:
        return ()

    def projections(self, tensors: Mapping[str, Tensor], hf: Mapping[str, Any], config: EncoderConfig) -> dict[str, Tensor]:
        """The distillation projections saved beside the encoder, as '<name>.weight' and '<name>.bias', float32. ValueError when they
        are not what config.json says of them, or not finite."""
        found = {name.removeprefix(PROJECTIONS): x.float() for name, x in tensors.items() if name.startswith(PROJECTIONS)}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in hf.get("projections") or ():
            width = int(hf.get("teacher_dim") or 0) * int(hf.get("teacher_frames") or 1)
            shapes |= {f"{name}.weight": (width, config.dim), f"{name}.bias": (width,)}
        if {name: tuple(x.shape) for name, x in found.items()} != shapes:
            raise ValueError(
                "the projections into the teacher's space are not those that config.json describes; the folder is damaged"
            )
        if bad := [name for name, x in found.items() if not torch.isfinite(x).all()]:
            raise ValueError(f"{PROJECTIONS}{bad[0]} holds NaN or infinity")
        return found

    def to_hf(
        self, config: EncoderConfig, state: Mapping[str, Tensor], mask_vector: Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The folder's config.json (its part that describes the encoder) and tensors. `mask_vector` is not kept."""
        tensors = {f"encoder.{name}": tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
        return {"model_type": "sottovoce", "encoder": config.to_dict()}, tensors
