"""What every student design is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning.plan import rebuild


class Student:
    """Makes the first student. A subclass is one file: ``@STUDENTS.register("name")``, a nested frozen ``Config``, and `build`."""

    name: ClassVar[str]
    Config: ClassVar[type]
    is_teacher: ClassVar[bool] = (
        False  # starts in the teacher's own shape, so that a budget can be checked before anything is built
    )

    def __init__(self, config: Any) -> None:
        self.config = config

    def build(self, teacher: Pretrained | None) -> Encoder:
        """The student before training. ValueError when this teacher cannot serve."""
        raise TypeError(f"{type(self).__name__} must define build")


@dataclass(frozen=True)
class Joining:
    """A choice of students made of a teacher. join: so many of its frames become one before the first layer, which costs the layers as
    many times less (time reduction, as in FitHuBERT, arXiv 2207.00555); the student starts from their mean."""

    join: int = 1

    def joined(self, encoder: Encoder) -> Encoder:
        """`encoder` as it is, or a new one that joins frames."""
        if self.join == 1:
            return encoder
        shape = encoder.config
        frontend = dataclasses.replace(shape.frontend, join=shape.frontend.join * self.join)
        state = encoder.state_dict()
        name = "frontend.projection.weight"
        state[name] = state[name].repeat_interleave(self.join, 1) / self.join
        return rebuild(encoder, dataclasses.replace(shape, frontend=frontend), state)


def own_encoder(teacher: Pretrained | None) -> Encoder:
    """The teacher's encoder, for students that are made of it. ValueError when there is none, or it runs inside transformers."""
    if teacher is None:
        raise ValueError("this student is made of a teacher's weights, and there is no teacher")
    if not isinstance(teacher.encoder, Encoder):
        raise ValueError(
            f"a '{teacher.family}' model can teach, but its weights cannot be taken over; choose another student "
            "(sottovoce list students)"
        )
    return teacher.encoder
