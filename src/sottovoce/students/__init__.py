"""Student designs, one file each: where the student's shape and first weights come from."""

from sottovoce.students.base import Student

__all__ = ["Student"]
