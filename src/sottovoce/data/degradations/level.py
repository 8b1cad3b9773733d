"""Recordings that are too quiet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("level")
class Level(Degradation):
    """Another level: the recording's peak is set."""

    @dataclass(frozen=True)
    class Config:
        """peak_db: the new peak, in dB relative to full scale."""

        peak_db: tuple[float, ...] = (-35.0, 0.0)

        def __post_init__(self) -> None:
            check_range("peak_db", self.peak_db, least=-120, most=20)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        peak = float(np.abs(wave).max())
        gain = 10 ** (drawn(self.config.peak_db, random) / 20) / peak if peak else 1.0
        return (wave * gain).astype(np.float32)
