"""Kinds of teachers, one file each. `base.Teacher` says what a kind must define."""

from sottovoce.train.teachers.base import Teacher, TeacherSettings, prepared

__all__ = ["Teacher", "TeacherSettings", "prepared"]
