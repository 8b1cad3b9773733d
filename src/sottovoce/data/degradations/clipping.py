"""Recordings that were too loud for their converter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("clipping")
class Clipping(Degradation):
    """Hard clipping: samples beyond a limit are set to it."""

    @dataclass(frozen=True)
    class Config:
        """below_db: the limit, in dB below the recording's peak."""

        below_db: tuple[float, ...] = (3.0, 30.0)

        def __post_init__(self) -> None:
            check_range("below_db", self.below_db, least=0, most=120)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        limit = np.abs(wave).max() * 10 ** (-drawn(self.config.below_db, random) / 20)
        return np.clip(wave, -limit, limit)
