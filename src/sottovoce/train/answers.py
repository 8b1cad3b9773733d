"""What a student learns from in a batch: its teachers' answers, on its own frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.core.types import Answer, Batch, Features
from sottovoce.encoder.config import FrontendConfig
from sottovoce.objectives import EncoderShape, Needs
from sottovoce.train.targets import Teachers

FEATURES = ("clean", "masked")  # targets that are a teacher's hidden states or vectors
Targets = Mapping[tuple[str, str], Answer]  # by label of the teacher and kind of target


@dataclass(frozen=True)
class Answers:
    """Asks teachers for what objectives read.

    shapes: of the teachers at the student's frame rate, by label. needs, teacher_of: of the objectives, and the labels of their teachers,
    by label. frontend: the student's.
    """

    teachers: Teachers
    shapes: Mapping[str, EncoderShape]
    needs: Mapping[str, Needs]
    teacher_of: Mapping[str, str]
    frontend: FrontendConfig

    def targets(self, raw: Batch, keys: tuple[str, ...], mask: Tensor | None) -> Targets:
        """The answers for a decoded batch, as far as objectives need them.

        "clean": answers for the clean audio. "masked": at masked frames the clean answer, at the others the answer for the masked audio.
        keys: names of the rows' targets on disk. mask: (B, T) bool, frames of the student.
        """
        answers: dict[tuple[str, str], Answer] = {}
        for label, needs in self.needs.items():
            teacher = self.teacher_of[label]
            if needs.targets in FEATURES and (teacher, "clean") not in answers:
                answers[teacher, "clean"] = self.clean(teacher, raw, keys)
        for label, needs in self.needs.items():
            teacher = self.teacher_of[label]
            if needs.targets == "masked" and (teacher, "masked") not in answers:
                assert mask is not None
                answers[teacher, "masked"] = self._masked(teacher, raw, mask, answers[teacher, "clean"])
        return answers

    def clean(self, teacher: str, raw: Batch, keys: tuple[str, ...]) -> Answer:
        """A teacher's answer for the clean audio: the layers that objectives read."""
        wanted = [needs for label, needs in self.needs.items() if self.teacher_of[label] == teacher and needs.targets in FEATURES]
        every = any(needs.layers is None for needs in wanted)
        layers = None if every else sorted({layer for needs in wanted for layer in needs.layers or ()})
        taps, maps = sorted({layer for needs in wanted for layer in needs.taps}), any(needs.maps for needs in wanted)
        return self._placed(teacher, self.teachers.clean(teacher, raw, keys, layers, taps, maps), raw)

    def _placed(self, teacher: str, answer: Answer, raw: Batch) -> Answer:
        """The answer, resampled to the student's frames."""
        shape, frames = self.shapes[teacher], int(self.frontend.frames(raw.wave.shape[1]))
        return answer.on_frames(frames, shape.join, shape.rate) if isinstance(answer, Features) else answer

    def _masked(self, teacher: str, raw: Batch, mask: Tensor, clean: Answer) -> Features:
        assert isinstance(clean, Features)
        hidden, over = mask[..., None], mask_for(self.shapes[teacher], mask)
        taps = any(needs.taps for label, needs in self.needs.items() if self.teacher_of[label] == teacher)
        masked = self._placed(teacher, self.teachers.masked(teacher, raw, over, taps), raw)
        assert isinstance(masked, Features)

        def mix(of_clean: list[Tensor], of_masked: list[Tensor]) -> list[Tensor]:
            pairs = zip(of_clean, of_masked, strict=True)  # layers that no objective reads are empty
            return [torch.where(hidden, x, y) if x.shape == y.shape else x for x, y in pairs]

        embedded, last = mix([clean.embedded, clean.last], [masked.embedded, masked.last])
        return Features(mix(clean.hidden, masked.hidden), clean.lengths, embedded, last, mix(clean.ffn, masked.ffn))


def mask_for(teacher: EncoderShape, mask: Tensor) -> Tensor:
    """The student's mask, (B, T), on a teacher's frames: each teacher frame takes the mask of the student frame at its centre."""
    if teacher.rate:
        at = ((torch.arange(int(mask.shape[1] * teacher.rate), device=mask.device) + 0.5) / teacher.rate).long()
        return mask[:, at.clamp(max=mask.shape[1] - 1)]
    return mask if teacher.join == 1 else mask.repeat_interleave(teacher.join, 1)
