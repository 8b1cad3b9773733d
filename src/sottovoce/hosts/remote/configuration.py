"""config.json of students that a decoder of transformers reads, as transformers sees it."""

from __future__ import annotations

from typing import Any

from transformers.models.moonshine.configuration_moonshine import MoonshineConfig
from transformers.models.whisper.configuration_whisper import WhisperConfig


class SottovoceWhisperConfig(WhisperConfig):
    """Whisper's configuration, with a student under ``student``."""

    model_type = "sottovoce-whisper"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        setattr(self, "model_type", "whisper")  # noqa: B010  # pipelines know it by that; config.json has the class's


class SottovoceMoonshineConfig(MoonshineConfig):
    """Moonshine's configuration, with a student under ``student``."""

    model_type = "sottovoce-moonshine"
