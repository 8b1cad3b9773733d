"""Narrow bands, as of telephones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples

EDGE = 0.1  # width of a band's edge, as a share of its frequency


@DEGRADATIONS.register("bandwidth")
class Bandwidth(Degradation):
    """A limited band: nothing above a highest and nothing below a lowest frequency is left."""

    @dataclass(frozen=True)
    class Config:
        """highest, lowest: the band's ends in Hz. Highest ends are drawn evenly in log frequency."""

        highest: tuple[float, ...] = (1500.0, 7000.0)
        lowest: tuple[float, ...] = (0.0, 400.0)

        def __post_init__(self) -> None:
            check_range("highest", self.highest, least=100, most=SAMPLE_RATE / 2)
            check_range("lowest", self.lowest, least=0, most=self.highest[0])

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        low, high = np.log(self.config.highest)
        highest, lowest = float(np.exp(random.uniform(low, high))), drawn(self.config.lowest, random)
        pitch = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
        gain = np.clip((highest * (1 + EDGE) - pitch) / (highest * EDGE), 0, 1)
        if lowest:
            gain *= np.clip((pitch - lowest * (1 - EDGE)) / (lowest * EDGE), 0, 1)
        return np.fft.irfft(np.fft.rfft(wave) * gain, n=len(wave)).astype(np.float32)
