"""A teacher that answers with one vector per recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import Answer, Batch, Vectors
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.base import layer_index
from sottovoce.train.teachers.encoder import EncoderTeacher


@TEACHER_KINDS.register("utterance")
class UtteranceTeacher(EncoderTeacher):
    """The mean over time of one layer of a speech encoder: one vector for each recording."""

    answers: ClassVar[Literal["frames", "utterance"]] = "utterance"

    @dataclass(frozen=True)
    class Config(EncoderTeacher.Config):
        """layer: whose frames are averaged, a number or a share of the depth; the last by default, after the final norm if it has one."""

        layer: str = "1/1"

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(self.pretrained.dim, 0)

    @torch.no_grad()
    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        if mask is not None or taps:
            raise ValueError(f"{self.config.source} gives one vector for each recording, nothing about masked audio or layers")
        features = self.features(batch)
        index = layer_index(self.config.layer, self.pretrained.depth)
        x = features.last if index == self.pretrained.depth else features.hidden[index]
        valid = features.valid()
        share = valid.float() / valid.sum(1, keepdim=True).clamp(min=1)
        return Vectors((x.float() * share[..., None]).sum(1))
