"""Evaluation tasks, one file each."""

from sottovoce.tasks.base import Task

__all__ = ["Task"]
