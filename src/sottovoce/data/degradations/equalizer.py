"""Microphones and loudspeakers that colour the sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.augment import BANDS, equalize
from sottovoce.data.degradations.base import Degradation
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("equalizer")
class Equalizer(Degradation):
    """A random equaliser: ten gains, equally spaced in log frequency from 60 Hz up."""

    @dataclass(frozen=True)
    class Config:
        """deviation_db: standard deviation of the gains."""

        deviation_db: float = 5.0

        def __post_init__(self) -> None:
            if not 0 <= self.deviation_db < float("inf"):
                raise ValueError(f"deviation_db must be 0 or more, not {self.deviation_db:g}")

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        gains = torch.from_numpy(random.normal(0, self.config.deviation_db, (1, BANDS)).astype(np.float32))
        return equalize(torch.from_numpy(wave)[None], gains)[0].numpy()
