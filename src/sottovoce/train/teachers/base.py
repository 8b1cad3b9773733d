"""What every kind of teacher is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.types import Answer, Batch
from sottovoce.encoder import normalize
from sottovoce.hub.pretrained import Pretrained
from sottovoce.objectives import EncoderShape


@dataclass(frozen=True)
class TeacherSettings:
    """How a run's teachers compute. device: where. precision: of the weights of a teacher that does not say its own. pack: prepare
    float32 teachers for inference on a CPU (`inference.packed`). compile: by `torch.compile`, where they are not packed."""

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    pack: bool = False
    compile: bool = False


class Teacher:
    """A model that says what a student is to learn. Loaded once per run; prepares a batch its own way and answers.

    A subclass is one file: ``@TEACHER_KINDS.register("name")``, a nested frozen ``Config`` that extends this one, and `answer`.
    answers: whether it gives `Features` (one vector per frame) or `Vectors` (one per recording). pretrained: the speech encoder inside,
    which students can be made from; ``None`` where there is none.
    """

    name: ClassVar[str]
    answers: ClassVar[Literal["frames", "utterance"]] = "frames"
    pretrained: Pretrained | None = None

    @dataclass(frozen=True)
    class Config:
        """source: a folder, a hub id, an earlier student, or ``demo``. precision: of its weights; the recipe's teacher_precision when
        empty."""

        source: str = ""
        precision: Literal["fp32", "bf16"] | None = None

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        self.config, self.settings = config, settings

    @property
    def precision(self) -> str:
        """Of its weights: fp32 or bf16."""
        return str(self.config.precision or self.settings.precision)

    @property
    def packed(self) -> bool:
        """Whether its weights are there twice, because a copy is prepared for inference."""
        return self.settings.pack and self.precision == "fp32"

    @property
    def normalize(self) -> bool:
        """Whether it wants waveforms of zero mean and unit variance."""
        return self.pretrained is not None and self.pretrained.normalize

    @property
    def shape(self) -> EncoderShape:
        """Width, depth and stride of its answers. Of an utterance teacher: width, and no layers."""
        raise TypeError(f"{type(self).__name__} must define shape")

    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        """What it says about a batch as it was decoded, on this process's device.

        mask: (B, T) bool, its own frames that it is to have masked; frames after the mask's end are not. taps: give feed-forward
        outputs too. ValueError when it can do neither.
        """
        raise TypeError(f"{type(self).__name__} must define answer")

    def fingerprint(self) -> str:
        """A digest of all that decides its answers. Kept targets are kept under it."""
        raise TypeError(f"{type(self).__name__} must define fingerprint")


def prepared(batch: Batch, normalized: bool) -> Batch:
    """The batch with waveforms as a model wants them: of zero mean and unit variance, or as they are."""
    return dataclasses.replace(batch, wave=normalize(batch.wave, batch.lengths)) if normalized else batch
