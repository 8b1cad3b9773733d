"""Packets that a network loses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.degradations.base import Degradation, check_range, drawn
from sottovoce.data.recording import Samples

FADE = 0.5  # a concealed packet is so much quieter than the one before it


@DEGRADATIONS.register("lost_packets")
class LostPackets(Degradation):
    """Lost packets, alone or in bursts (Gilbert 1960); gaps are silent, or the last packet that came is repeated and fades."""

    @dataclass(frozen=True)
    class Config:
        """seconds: of a packet. lost: share of the packets. burst: mean number of packets that are lost in a row. concealed: share of the
        recordings whose gaps are filled."""

        seconds: float = 0.02
        lost: tuple[float, ...] = (0.01, 0.3)
        burst: tuple[float, ...] = (1.0, 4.0)
        concealed: float = 0.5

        def __post_init__(self) -> None:
            check_range("lost", self.lost, least=0, most=0.9)
            check_range("burst", self.burst, least=1, most=100)
            if not 1e-3 <= self.seconds <= 1:
                raise ValueError(f"seconds of a packet must be between 0.001 and 1, not {self.seconds:g}")
            if not 0 <= self.concealed <= 1:
                raise ValueError(f"concealed must be between 0 and 1, not {self.concealed:g}")

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        size = round(self.config.seconds * SAMPLE_RATE)
        share, burst, conceals = drawn(self.config.lost, random), drawn(self.config.burst, random), random.random()
        worse, last, losing = wave.copy(), np.zeros(size, np.float32), False
        ends, begins = (
            1 / burst,
            min(1.0, share / (burst * (1 - share))),
        )  # chances to change the state; `share` is lost in the long run
        for start in range(0, len(wave), size):
            losing = random.random() < begins if not losing else random.random() >= ends
            packet = worse[start : start + size]
            if not losing:
                last = packet
            else:
                last = FADE * last
                packet[:] = last[: len(packet)] if conceals < self.config.concealed else 0
        return worse
