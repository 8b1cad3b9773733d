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
    """The teacher's front end and some of its layers, weights copied: the first ones (DistilHuBERT) or evenly spaced ones (DistilXLSR)."""

    @dataclass(frozen=True)
    class Config(Joining):
        """count: how many layers (2 in DistilHuBERT). which: "first", or "spaced", every depth/count-th layer, the last one included."""

        count: int = 2
        which: Literal["first", "spaced"] = "first"

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder = own_encoder(teacher)
        want: Layers.Config = self.config
        return want.joined(take(encoder, chosen(len(encoder.layers), want.count, want.which)))


def chosen(depth: int, count: int, which: str) -> list[int]:
    """Numbers, from 0, of `count` of `depth` layers. ValueError when there are fewer than asked for."""
    if not 1 <= count <= depth:
        raise ValueError(f"{count} layers cannot be taken: the teacher has {depth}, so between 1 and {depth} can")
    return list(range(count)) if which == "first" else [(i + 1) * depth // count - 1 for i in range(count)]


def take(encoder: Encoder, layers: list[int]) -> Encoder:
    """A new encoder with the front end and these layers of another, in this order."""
    made = Encoder(dataclasses.replace(encoder.config, layers=tuple(encoder.config.layers[i] for i in layers)))
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        state |= {f"layers.{new}.{name}": tensor for name, tensor in encoder.layers[old].state_dict().items()}
    made.load_state_dict(state)
    return made
