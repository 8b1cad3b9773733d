"""The base class of student designs, and what several of them share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning.plan import rebuild


class Student:
    """Builds the initial student. A subclass is one file: ``@STUDENTS.register("name")``, a nested frozen ``Config``, and `build`."""

    name: ClassVar[str]
    Config: ClassVar[type]
    is_teacher: ClassVar[bool] = False  # starts in the teacher's shape; a budget can then be checked before the student is built

    def __init__(self, config: Any) -> None:
        self.config = config

    def build(self, teacher: Pretrained | None) -> Encoder:
        """The student before training. ValueError if the design does not fit this teacher."""
        raise TypeError(f"{type(self).__name__} must define build")


@dataclass(frozen=True)
class Joining:
    """Time reduction for students made from a teacher (as in FitHuBERT, arXiv 2207.00555).

    join: number of teacher frames that become one before the first layer; the layers then have as many times fewer frames. The student
    starts from their mean.
    """

    join: int = 1

    def joined(self, encoder: Encoder) -> Encoder:
        """`encoder`, or a new one that joins frames."""
        if self.join == 1:
            return encoder
        config = encoder.config
        frontend = dataclasses.replace(config.frontend, join=config.frontend.join * self.join)
        state = encoder.state_dict()
        name = "frontend.projection.weight"
        state[name] = state[name].repeat_interleave(self.join, 1) / self.join
        return rebuild(encoder, dataclasses.replace(config, frontend=frontend), state)


def own_encoder(teacher: Pretrained | None) -> Encoder:
    """The teacher's encoder, for students made from it. ValueError if there is no teacher, or if it runs inside transformers."""
    if teacher is None:
        raise ValueError("this student starts from a teacher's weights, and there is no teacher; name one, or use student=random")
    if not isinstance(teacher.encoder, Encoder):
        raise ValueError(
            f"a '{teacher.family}' model can teach, but its weights cannot be copied; choose another student (sottovoce list students)"
        )
    return teacher.encoder
