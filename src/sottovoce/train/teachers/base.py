"""The base class of teachers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.types import Answer, Batch, Features
from sottovoce.encoder import normalize
from sottovoce.hub.pretrained import Pretrained
from sottovoce.objectives import EncoderShape

if TYPE_CHECKING:
    from sottovoce.hosts.base import Host


@dataclass(frozen=True)
class TeacherSettings:
    """How a run's teachers compute. precision: of the weights, unless a teacher sets its own. pack: prepare float32 teachers for
    inference on a CPU (`inference.packed`). compile: use `torch.compile` for teachers that are not packed."""

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    pack: bool = False
    compile: bool = False


class Teacher:
    """A model that a student learns from. It is loaded once per run, and prepares each batch in its own way.

    A subclass is one file: ``@TEACHER_KINDS.register("name")``, a nested frozen ``Config`` that extends this one, and `answer`.
    answers: "frames" if it gives `Features` (a vector per frame), "utterance" if `Vectors` (one per recording). pretrained: its speech
    encoder, from which students can start; ``None`` without one. scores: the names of its numbers, of a teacher whose answer is one or
    several scores of a recording; () for others.
    """

    name: ClassVar[str]
    answers: ClassVar[Literal["frames", "utterance"]] = "frames"
    pretrained: Pretrained | None = None
    scores: tuple[str, ...] = ()

    @dataclass(frozen=True)
    class Config:
        """source: a folder, a hub id, an earlier student, or ``demo``. precision: of its weights; the recipe's teacher_precision when
        empty."""

        source: str = ""
        precision: Literal["fp32", "bf16"] | None = None

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        self.config, self.settings = config, settings

    @classmethod
    def alone(cls, **fields: Any) -> Teacher:
        """The model outside of a run, on the CPU. fields: of its ``Config``."""
        return cls(cls.Config(**fields), TeacherSettings(torch.device("cpu")))

    @property
    def params(self) -> int | None:
        """Number of its parameters; ``None`` if unknown."""
        return None

    @property
    def precision(self) -> str:
        """Precision of the weights: fp32 or bf16."""
        return str(self.config.precision or self.settings.precision)

    @property
    def packed(self) -> bool:
        """Whether it holds a second copy of its weights, prepared for inference."""
        return self.settings.pack and self.precision == "fp32"

    @property
    def normalize(self) -> bool:
        """Whether it reads waveforms of zero mean and unit variance."""
        return self.pretrained is not None and self.pretrained.normalize

    @property
    def models(self) -> list[Teacher]:
        """The loaded models that it consists of, for memory and records; by default itself alone."""
        return [self]

    @property
    def host(self) -> Host | None:
        """The model that its encoder lives in; ``None`` without one."""
        return None

    def listen(self, batch: Batch) -> Features:
        """What its encoder says of a decoded batch, as its host reads it."""
        raise ValueError(f"{self.config.source} is not the encoder of a model that says something")

    @property
    def shape(self) -> EncoderShape:
        """Width, depth and stride of its answers; an utterance teacher has no layers."""
        raise TypeError(f"{type(self).__name__} must define shape")

    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        """Its answer for a decoded batch on this process's device.

        mask: (B, T) bool, the teacher's frames to mask; frames after its end are visible. taps: return feed-forward outputs, too.
        ValueError if the teacher supports neither.
        """
        raise TypeError(f"{type(self).__name__} must define answer")

    @property
    def gives_maps(self) -> bool:
        """Whether `with_maps` can be asked for."""
        return False

    def with_maps(self, batch: Batch, taps: bool = False) -> Features:
        """Its answer for a decoded batch, with attention maps."""
        raise TypeError(f"{type(self).__name__} must define with_maps")

    def fingerprint(self) -> str:
        """A digest of all that decides its answers. It names the targets on disk."""
        raise TypeError(f"{type(self).__name__} must define fingerprint")


def prepared(batch: Batch, normalized: bool) -> Batch:
    """The batch as a model reads it: with waveforms normalised to zero mean and unit variance, or unchanged."""
    return dataclasses.replace(batch, wave=normalize(batch.wave, batch.lengths)) if normalized else batch
