"""The task's own loss: what the host should say of labelled recordings, learned through the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Batch, Labels, Loss, Outputs
from sottovoce.objectives.alignment import ctc
from sottovoce.objectives.base import EncoderShape, Needs, Objective


@OBJECTIVES.register("task_loss")
class TaskLoss(Objective):
    """The loss of the host's own task on labelled recordings, with the student inside: CTC, or cross entropy of tokens or classes.

    Transcripts come from the column ``data.text``, written in the tokens of the host's own tokenizer; classes from ``data.label``. Rows
    without them, and texts with more tokens than frames (CTC), add no loss and do not count.
    """

    reads: ClassVar[Literal["frames", "utterance", "outputs"]] = "outputs"

    @dataclass(frozen=True)
    class Config:
        """smoothing: label smoothing of cross entropy."""

        smoothing: float = 0.0

        def __post_init__(self) -> None:
            if not 0 <= self.smoothing < 1:
                raise ValueError(f"smoothing must be at least 0 and below 1, not {self.smoothing:g}")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: TaskLoss.Config = config

    def needs(self) -> Needs:
        return Needs(targets="labels", layers=())

    def forward(self, student: Outputs, teacher: Labels, frames: Tensor, batch: Batch) -> Loss:
        """Sum over the labels in `frames`, (B, N) bool: tokens or recordings."""
        if teacher.kind == "frames":
            rows = [ids[row].tolist() for ids, row in zip(teacher.ids, frames, strict=True)]
            loss = ctc(student.logits, student.valid.sum(1), rows, teacher.blank).sum()
            return Loss(loss, {"ctc": loss.detach()})
        targets = teacher.ids[:, 1:] if teacher.kind == "tokens" else teacher.ids
        logits = student.logits.float().transpose(1, 2)
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.config.smoothing)
        loss = torch.where(frames, each, each.new_zeros(())).sum()
        right = (student.logits.argmax(-1) == targets) & frames
        return Loss(loss, {"cross_entropy": loss.detach(), "accuracy": right.sum().float()})
