"""Students that sottovoce wrote, so that a student can teach, or be cut, again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        return bool(hf["normalize"]) if "normalize" in hf else hf["encoder"]["frontend"]["norm"] == "layer"

    def trunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if not name.startswith(PROJECTIONS)}

    def hf_name(self, ours: str) -> str:
        return ours

    def projections(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The distillation projections saved beside the encoder, as '<name>.weight' and '<name>.bias', float32."""
        return {name.removeprefix(PROJECTIONS): x.float() for name, x in tensors.items() if name.startswith(PROJECTIONS)}

    def to_hf(
        self, config: EncoderConfig, state: Mapping[str, Tensor], mask_vector: Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The folder's config.json (its part that describes the encoder) and tensors. `mask_vector` is not kept."""
        tensors = {f"encoder.{name}": tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
        return {"model_type": "sottovoce", "encoder": config.to_dict()}, tensors
