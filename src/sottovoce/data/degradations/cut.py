"""Recordings that end too early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("cut")
class EarlyEnd(Degradation):
    """The end is cut off, often within a word. Changes the length.

    A transcript does not follow, so it is not for objectives that learn text.
    """

    @dataclass(frozen=True)
    class Config:
        """share: of the recording that stays."""

        share: tuple[float, ...] = (0.3, 0.95)

        def __post_init__(self) -> None:
            check_range("share", self.share, least=0.01, most=1)

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        return wave[: max(1, round(drawn(self.config.share, random) * len(wave)))]
