"""Silence behind recordings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("silence")
class Silence(Degradation):
    """Zeros behind the recording, as a Whisper with a student inside adds them in use. Changes the length."""

    @dataclass(frozen=True)
    class Config:
        """seconds: of silence."""

        seconds: tuple[float, ...] = (0.1, 0.5)

        def __post_init__(self) -> None:
            check_range("seconds", self.seconds, least=0, most=10)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        return np.pad(wave, (0, round(drawn(self.config.seconds, random) * SAMPLE_RATE)))
