"""Recordings at another speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.decode import played
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("speed")
class Speed(Degradation):
    """Another playback speed, with another pitch, as on a tape. Changes the length."""

    @dataclass(frozen=True)
    class Config:
        """factor: of the speed."""

        factor: tuple[float, ...] = (0.8, 1.25)

        def __post_init__(self) -> None:
            check_range("factor", self.factor, least=0.5, most=2)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        return played(wave, drawn(self.config.factor, random))
