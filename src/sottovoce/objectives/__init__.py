"""Distillation objectives, one file each. `base.Objective` says what a file must define."""

from sottovoce.objectives.base import EncoderShape, Needs, Objective

__all__ = ["EncoderShape", "Needs", "Objective"]
