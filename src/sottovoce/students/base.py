"""What every student design is."""

from __future__ import annotations

from typing import Any, ClassVar

from sottovoce.encoder import Encoder
from sottovoce.families import Pretrained


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
