"""What a host says with the teacher inside and with the student inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Batch, Loss, Outputs, Posteriors
from sottovoce.objectives.base import EncoderShape, Needs, Objective
from sottovoce.objectives.posteriors import log_probs


@OBJECTIVES.register("host_output")
class HostOutput(Objective):
    """KL divergence between the outputs of the teacher's host (recogniser, classifier) with the teacher inside and with the student inside.

    ``T^2 KL(p_teacher || p_student)`` at each frame (CTC), token (decoders, which continue the teacher's own greedy transcript) or
    recording (classifiers); p is the softmax of logits / T (Hinton, Vinyals, Dean 2015, arXiv 1503.02531). No labels are needed.
    """

    reads: ClassVar[Literal["frames", "utterance", "outputs"]] = "outputs"

    @dataclass(frozen=True)
    class Config:
        """temperature: T. classes: the teacher's likeliest classes at each output are compared one by one and all others as one, so that
        targets on disk stay small; 0: all classes. The loss is never larger than with all classes, and 0 for equal outputs."""

        temperature: float = 1.0
        classes: int = 256

        def __post_init__(self) -> None:
            if not 0 < self.temperature < float("inf") or self.classes < 0:
                raise ValueError("temperature must be above 0 and classes at least 0")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: HostOutput.Config = config

    def needs(self) -> Needs:
        return Needs(targets="outputs", layers=(), classes=self.config.classes, temperature=self.config.temperature)

    def forward(self, student: Outputs, teacher: Posteriors, frames: Tensor, batch: Batch) -> Loss:
        """Sum over the outputs in `frames`, (B, N) bool. Logs: the divergence without T^2; agreement: the share of outputs at which the
        likeliest class is the same."""
        theirs = teacher.log_probs.log_softmax(-1)  # sums to 1 again after half precision
        ours = log_probs(student.logits, teacher.tops, self.config.temperature)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1)
        kl = torch.where(frames, divergence, divergence.new_zeros(())).sum()
        same = (student.logits.argmax(-1) == teacher.tops[..., 0]) & frames
        return Loss(self.config.temperature**2 * kl, {"kl": kl.detach(), "agreement": same.sum().float()})
