"""Audio that an exported file is calibrated on, and other audio that it is checked on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import Recordings, open_source
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.pieces import Piece, decoded

LONGEST, SHORTEST = 10.0, 0.3  # seconds of a recording that are heard; what is shorter is left out


@dataclass(frozen=True)
class Heard:
    """Raw 16 kHz waves, each (S,) float32. calibration and check have no recording in common. recordings: all of the source."""

    calibration: list[Tensor]
    check: list[Tensor]
    recordings: Recordings


def heard(data: str | Path, seconds: float) -> Heard:
    """Up to `seconds` of audio for each purpose, in the order of a hash; of the split "test" only for the check, where there is one.

    ValueError when there is no audio that can be read.
    """
    found = open_source(data)
    order = sorted(found, key=lambda item: draw(item.id))
    tests = [item for item in order if item.fields.get("split") == "test"]
    others = [item for item in order if item.fields.get("split") != "test"]
    if not tests or not others:
        tests, others = order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]
    check = _waves([Piece(item, 0.0, LONGEST) for item in tests], seconds)
    if not check:
        raise ValueError(f"{data} has no audio of at least {SHORTEST} s that can be read; name other audio with --data")
    return Heard(_waves([Piece(item, 0.0, LONGEST) for item in others], seconds), check, found)


def noise() -> Heard:
    """Where there is no speech: three stretches of noise, which say whether a file computes the same, not how much its rounding matters."""
    random = torch.Generator().manual_seed(0)
    waves = [0.1 * torch.randn(int(seconds * SAMPLE_RATE), generator=random) for seconds in (3.0, 2.1, 1.3)]
    return Heard([], waves, Recordings([]))


def _waves(pieces: list[Piece], seconds: float) -> list[Tensor]:
    found: list[Tensor] = []
    left = seconds * SAMPLE_RATE
    for _, wave in decoded(pieces):
        if left <= 0:
            break
        if isinstance(wave, Tensor) and len(wave) >= SHORTEST * SAMPLE_RATE:
            found.append(wave)
            left -= len(wave)
    return found
