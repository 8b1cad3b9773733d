"""The teachers of a run: how each is asked, one file per kind. See `base.Teacher` for what a kind must say."""

from sottovoce.train.teachers.base import Teacher, TeacherSettings, prepared

__all__ = ["Teacher", "TeacherSettings", "prepared"]
