"""Distillation objectives, one file each. See `base.Objective` for what one must say."""

from sottovoce.objectives.base import Needs, Objective, Shape

__all__ = ["Needs", "Objective", "Shape"]
