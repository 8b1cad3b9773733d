"""Student designs, one file each. A design sets the student's shape and initial weights."""

from sottovoce.students.base import Student

__all__ = ["Student"]
