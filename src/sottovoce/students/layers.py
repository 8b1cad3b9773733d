"""A student made of some of the teacher's layers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sottovoce.encoder import Encoder
from sottovoce.families import Pretrained
from sottovoce.registry import STUDENTS
from sottovoce.students.base import Student


@STUDENTS.register("layers")
class Layers(Student):
    """The teacher's front end and some of its layers, weights copied: the first ones (DistilHuBERT) or evenly spaced ones (DistilXLSR)."""

    @dataclass(frozen=True)
    class Config:
        """count: how many layers (2 in DistilHuBERT). which: "first", or "spaced", every depth/count-th layer, the last one included."""

        count: int = 2
        which: Literal["first", "spaced"] = "first"

    def build(self, teacher: Pretrained | None) -> Encoder:
        if teacher is None:
            raise ValueError("a student made of a teacher's layers needs a teacher")
        if not isinstance(teacher.encoder, Encoder):
            raise ValueError(
                f"a '{teacher.family}' model can teach but its layers cannot be taken; see 'sottovoce list students'"
            )
        chosen = self.chosen(len(teacher.encoder.layers))
        config = teacher.encoder.config
        made = Encoder(dataclasses.replace(config, layers=tuple(config.layers[i] for i in chosen)))
        numbers = {str(old): str(new) for new, old in enumerate(chosen)}
        state = {}
        for name, tensor in teacher.encoder.state_dict().items():
            head, _, rest = name.partition(".")
            if head == "layers":
                number, _, leaf = rest.partition(".")
                if number not in numbers:
                    continue
                name = f"layers.{numbers[number]}.{leaf}"
            state[name] = tensor
        made.load_state_dict(state)
        return made

    def chosen(self, depth: int) -> list[int]:
        """Numbers of the layers that stay, from 0. ValueError when the teacher has fewer than asked for."""
        count = self.config.count
        if not 1 <= count <= depth:
            raise ValueError(f"student.count={count}: the teacher has {depth} layers, so between 1 and {depth} can be taken")
        return list(range(count)) if self.config.which == "first" else [(i + 1) * depth // count - 1 for i in range(count)]
