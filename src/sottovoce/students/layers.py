"""A student made of some of the teacher's layers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.students.base import Joining, Student, own_encoder


@STUDENTS.register("layers")
class Layers(Student):
    """A copy of the teacher's front end and of its first layers (DistilHuBERT) or of evenly spaced layers (DistilXLSR)."""

    @dataclass(frozen=True)
    class Config(Joining):
        """count: number of layers (2 in DistilHuBERT). which: "first", or "spaced": every depth/count-th layer, including the last."""

        count: int = 2
        which: Literal["first", "spaced"] = "first"

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder = own_encoder(teacher)
        config: Layers.Config = self.config
        return config.fitted(take(encoder, chosen(len(encoder.layers), config.count, config.which)))


def chosen(depth: int, count: int, which: str) -> list[int]:
    """Chooses `count` of `depth` layers: their numbers from 0. ValueError if there are fewer than `count`."""
    if not 1 <= count <= depth:
        raise ValueError(f"cannot take {count} layers of a teacher that has {depth}; use 1 to {depth}")
    return list(range(count)) if which == "first" else [(i + 1) * depth // count - 1 for i in range(count)]


def take(encoder: Encoder, layers: list[int]) -> Encoder:
    """A new encoder with the front end of `encoder` and these of its layers, in this order."""
    shallower = Encoder(dataclasses.replace(encoder.config, layers=tuple(encoder.config.layers[i] for i in layers)))
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        state |= {f"layers.{new}.{name}": tensor for name, tensor in encoder.layers[old].state_dict().items()}
    shallower.load_state_dict(state)
    return shallower
