"""Few bits per sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.degradations.base import Degradation, check_range
from sottovoce.data.recording import Samples

MU = 255.0  # of the mu law (ITU-T G.711)


@DEGRADATIONS.register("quantization")
class Quantization(Degradation):
    """Few bits per sample: steps of equal size, or steps that grow with the level (mu law)."""

    @dataclass(frozen=True)
    class Config:
        """bits: per sample, a whole number; full scale is the recording's peak. mu_law: share of the recordings whose steps follow the
        mu law."""

        bits: tuple[int, ...] = (4, 10)
        mu_law: float = 0.5

        def __post_init__(self) -> None:
            check_range("bits", self.bits, least=2, most=16)
            if not 0 <= self.mu_law <= 1:
                raise ValueError(f"mu_law must be between 0 and 1, not {self.mu_law:g}")

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        bits, compands = int(random.integers(self.config.bits[0], self.config.bits[1], endpoint=True)), random.random()
        peak = float(np.abs(wave).max()) or 1.0
        x = wave / peak
        if compands < self.config.mu_law:
            x = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
        steps = 2 ** (bits - 1) - 1
        x = np.round(x * steps) / steps
        if compands < self.config.mu_law:
            x = np.sign(x) * np.expm1(np.abs(x) * np.log1p(MU)) / MU
        return (peak * x).astype(np.float32)
