"""Distillation objectives, one file each. See `base.Objective` for what one must say."""

from sottovoce.objectives.base import EncoderShape, Needs, Objective

__all__ = ["EncoderShape", "Needs", "Objective"]
