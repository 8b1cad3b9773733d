"""Recognition of characters through a head of its own: the task's own loss for an encoder without a host."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.alignment import alignable, ctc
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index


@OBJECTIVES.register("ctc")
class Ctc(Objective):
    """Connectionist temporal classification (Graves et al. 2006) of the transcripts' characters, through a linear head on one layer.

    ``data.text`` names the column. For pruning jointly with recognition (arXiv 2502.05837) where the teacher is a bare encoder; a teacher
    with a recogniser has ``task_loss``. Student and head are written as a recogniser, which ``AutoModelForCTC`` opens, if the last stage
    trained the head; ``host.keep=false`` leaves it out. Rows without text, and rows with more characters than frames, add no loss.
    """

    @dataclass(frozen=True)
    class Config:
        """layer: the student's, a number or a share of its depth; the last by default, after the final norm if it has one. characters:
        those that are learned; texts are put into small letters first, and other characters lose their accents or are left out."""

        layer: str = "1/1"
        characters: str = " 'abcdefghijklmnopqrstuvwxyz"

        def __post_init__(self) -> None:
            if len(set(self.characters)) < max(1, len(self.characters)):
                raise ValueError("characters must name at least one character, and each once")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: Ctc.Config = config
        self.layer, self.depth = layer_index(config.layer, student.depth), student.depth
        self.classes = {character: index for index, character in enumerate(config.characters, 1)}  # 0 is the blank
        self.head = nn.Linear(student.dim, len(self.classes) + 1)

    def needs(self) -> Needs:
        return Needs(targets="none", column="text")

    def spelled(self, text: str) -> list[int]:
        """The classes of a text's characters."""
        found: list[int] = []
        for character in " ".join(text.lower().split()):
            if character not in self.classes:
                character = unicodedata.normalize("NFD", character)[0]
            if character in self.classes:
                found.append(self.classes[character])
        return found

    def rows(self, frames: Tensor, batch: Batch) -> list[list[int]]:
        """The characters of each row's text; none without a text column."""
        return [self.spelled(text) for text in batch.texts or ("",) * len(frames)]

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        """The characters of the rows that can be aligned."""
        rows = self.rows(frames, batch)
        sizes = torch.tensor([len(row) for row in rows], device=frames.device)
        return (sizes * alignable(rows, frames.sum(1))).sum()

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        x = student.last if self.layer == self.depth else student.hidden[self.layer]
        loss = ctc(self.head(x), frames.sum(1), self.rows(frames, batch), blank=0).sum()
        return Loss(loss, {"ctc": loss.detach()})
