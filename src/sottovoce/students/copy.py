"""The student starts as the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from sottovoce.encoder import Encoder
from sottovoce.families import Pretrained
from sottovoce.registry import STUDENTS
from sottovoce.students.base import Student


@STUDENTS.register("copy")
class Copy(Student):
    """A copy of the teacher, to be pruned (DPHuBERT)."""

    is_teacher = True

    @dataclass(frozen=True)
    class Config:
        """Nothing to choose."""

    def build(self, teacher: Pretrained | None) -> Encoder:
        if teacher is None:
            raise ValueError("a student that starts as a copy needs a teacher")
        if not isinstance(teacher.encoder, Encoder):
            raise ValueError(
                f"a '{teacher.family}' model can teach but not be pruned; choose another student, see 'sottovoce list students'"
            )
        return copy.deepcopy(teacher.encoder)
