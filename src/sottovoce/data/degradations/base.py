"""The base class of degradations, and chains of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sottovoce.core.config import Component
from sottovoce.core.registry import DEGRADATIONS, Registry
from sottovoce.data.draw import digest
from sottovoce.data.recording import Samples


class Degradation:
    """Makes a recording worse. A subclass is one file: ``@DEGRADATIONS.register("name")``, a nested frozen ``Config`` and `__call__`.

    Fields of a ``Config`` that hold two numbers are ranges, from which each recording draws its own value. None of the default ranges is
    from a paper, because those of Distill-MOS are not known.
    """

    name: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        """(S,) float32 at 16 kHz -> (S,), or another length where the class says so. All random choices come from `random`.

        Raises BadAudio if the recording cannot be degraded in this way; it is then skipped.
        """
        raise TypeError(f"{type(self).__name__} must define __call__")


@dataclass(frozen=True)
class DegradationChoice(Component):
    """A degradation of a chain. chance: the share of the recordings that it is applied to."""

    registry: ClassVar[Registry] = DEGRADATIONS
    chance: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance must be between 0 and 1, not {self.chance:g}")


def degraded(steps: Mapping[str, DegradationChoice], wave: Samples, seed: int) -> Samples:
    """(S,) -> (S',): one degradation after the other, each with its own chance.

    The same seed gives the same audio. Every step has a generator of its own, so that changing one step leaves the draws of the others as
    they were. A recording of which nothing is left (all packets lost) stays as it was.
    """
    worse = wave
    for number, choice in enumerate(steps.values()):
        random = np.random.default_rng([seed, number])
        if random.random() < choice.chance:
            worse = np.asarray(choice.build()(worse, random), np.float32)
    return worse if worse.any() else wave


@dataclass(frozen=True)
class Chain:
    """Degradations of whole recordings, for `data.degrade.degrade`: drawn for each recording from a hash of its id."""

    steps: Mapping[str, DegradationChoice]

    def __call__(self, wave: Tensor, name: str) -> Tensor:
        """(S,) -> (S',) samples at 16 kHz. name: id of the recording."""
        return torch.from_numpy(degraded(self.steps, wave.numpy(), seed_of(name)))


def seed_of(name: str) -> int:
    """The seed of a recording that is always degraded in the same way."""
    return int.from_bytes(digest(name), "big")


def drawn(pair: tuple[float, ...], random: np.random.Generator) -> float:
    """A number between the two."""
    return float(random.uniform(pair[0], pair[1]))


def check_range(name: str, pair: tuple[float, ...], least: float = -np.inf, most: float = np.inf) -> None:
    """ValueError unless `pair` is two numbers, the lower first, from `least` to `most`."""
    if len(pair) != 2 or not least <= pair[0] <= pair[1] <= most:
        limits = "" if np.isinf([least, most]).all() else f" between {least:g} and {most:g}"
        raise ValueError(f"{name} must be two numbers{limits}, the lower first, not {list(pair)}")
