"""wav2vec 2.0 (arXiv 2006.11477)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sottovoce.core.registry import FAMILIES
from sottovoce.families.base import Family
from sottovoce.families.hubert import refuse_adapters


@FAMILIES.register("wav2vec2")
class Wav2Vec2(Family):
    """wav2vec 2.0, XLSR-53, XLS-R and MMS (without language adapters)."""

    model_types = ("wav2vec2",)
    prefix = "wav2vec2"
    architecture = "Wav2Vec2Model"

    def refuse(self, hf: Mapping[str, Any]) -> None:
        super().refuse(hf)
        refuse_adapters(hf)
