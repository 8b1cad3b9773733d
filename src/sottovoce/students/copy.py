"""The student starts as the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import Pretrained
from sottovoce.students.base import Joining, Student, own_encoder


@STUDENTS.register("copy")
class Copy(Student):
    """A copy of the teacher, to be pruned (DPHuBERT)."""

    is_teacher = True

    @dataclass(frozen=True)
    class Config(Joining):
        """The only option is time reduction, which DPHuBERT does not have."""

    def build(self, teacher: Pretrained | None) -> Encoder:
        config: Copy.Config = self.config
        return config.fitted(copy.deepcopy(own_encoder(teacher)))
