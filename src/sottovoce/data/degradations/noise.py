"""Noise from a source of recordings, or made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data.augment import recorded, stretch
from sottovoce.data.corrupt import add_noise
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples


@DEGRADATIONS.register("noise")
class AddedNoise(Degradation):
    """Noise in the background: a random stretch of a recording, or made noise."""

    @dataclass(frozen=True)
    class Config:
        """snr_db: signal-to-noise ratio. noises: a source of recordings (a folder, a manifest), which are kept in memory; without one,
        noise is made. made: its kinds, drawn with equal chances."""

        snr_db: tuple[float, ...] = (-5.0, 30.0)
        noises: str = ""
        made: tuple[Literal["white", "pink"], ...] = ("white", "pink")

        def __post_init__(self) -> None:
            check_range("snr_db", self.snr_db)
            if not self.made:
                raise ValueError("made must name white, pink, or both")

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        snr = drawn(self.config.snr_db, random)
        if self.config.noises:
            noises = recorded(self.config.noises)
            source = noises[int(random.integers(len(noises)))]
            noise = stretch(source, len(wave), int(random.integers(len(source)))).numpy()
            return (wave + noise * np.sqrt(power(wave) / max(power(noise), 1e-20) / 10 ** (snr / 10))).astype(np.float32)
        kind = str(random.choice(self.config.made))
        return add_noise(torch.from_numpy(wave)[None], None, kind, snr, int(random.integers(2**31)))[0].numpy()


def power(wave: Samples) -> float:
    """Mean square."""
    return float(np.mean(np.square(wave, dtype=np.float64)))
