"""Reverberation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.corrupt import reverberate
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("room")
class Reverberation(Degradation):
    """A room: a direct path and exponentially decaying noise (see `corrupt.reverberate`)."""

    @dataclass(frozen=True)
    class Config:
        """rt60: reverberation time in seconds. drr_db: direct-to-reverberant energy ratio."""

        rt60: tuple[float, ...] = (0.15, 0.9)
        drr_db: tuple[float, ...] = (-3.0, 10.0)

        def __post_init__(self) -> None:
            check_range("rt60", self.rt60, least=1e-3, most=10)
            check_range("drr_db", self.drr_db)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        rt60, drr = drawn(self.config.rt60, random), drawn(self.config.drr_db, random)
        return reverberate(torch.from_numpy(wave)[None], None, rt60, int(random.integers(2**31)), drr)[0].numpy()
