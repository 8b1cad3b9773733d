"""Contrast between utterances, for speaker-aware pre-training (after UniSpeech-SAT, Chen et al. 2021, arXiv 2110.05752, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index, rows_of


@OBJECTIVES.register("utterance_contrast")
class UtteranceContrast(Objective):
    """InfoNCE between the two halves of an utterance, against other utterances, at a middle layer (after UniSpeech-SAT).

    A view is the mean over half of an utterance's frames. Its positive is the view of the other half; its negatives are the views of all
    other utterances in the batch and the last `queue` views, because a batch of 16 s holds few utterances. The paper contrasts single
    masked frames with quantised frames instead; there is no quantiser here.
    """

    past: Tensor
    filled: Tensor

    @dataclass(frozen=True)
    class Config:
        """layer: the student's (UniSpeech-SAT Base: 6 of 12). temperature: 0.1 in the paper. dim and queue are ours."""

        layer: str = "1/2"
        dim: int = 128
        temperature: float = 0.1
        queue: int = 512

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: UtteranceContrast.Config = config
        self.layer = layer_index(config.layer, student.depth)
        self.project = nn.Linear(student.dim, config.dim)
        self.register_buffer("past", F.normalize(torch.randn(config.queue, config.dim), dim=-1))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def needs(self) -> Needs:
        return Needs(masked_input=True, targets="none", compares_rows=True)

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        """Sum over rows; a row's loss is the mean over its two views."""
        views = self.views(student.hidden[self.layer], student.valid())
        rows = len(views) // 2
        similarity = views @ views.T
        row = torch.arange(2 * rows, device=views.device) % rows
        same = row[:, None] == row
        logits = torch.cat([similarity.masked_fill(same, -torch.inf), views @ self.past[: int(self.filled)].T.clone()], dim=1)
        positive = (views * views.roll(rows, 0)).sum(-1, keepdim=True)
        logits = torch.cat([positive, logits], dim=1) / self.config.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)) * rows
        correct = (logits.argmax(-1) == 0).float().mean() * rows
        if self.training:
            self.remember(views.detach())
        return Loss(loss, {"contrast": loss.detach(), "contrast_accuracy": correct})

    def views(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D) -> (2 B, dim), unit vectors: first halves, then second halves."""
        half = torch.div(valid.sum(1, keepdim=True) + 1, 2, rounding_mode="floor")
        at = torch.arange(x.shape[1], device=x.device)
        parts = []
        for frames in (valid & (at < half), valid & (at >= half)):
            share = frames.to(x.dtype) / frames.sum(1, keepdim=True).clamp(min=1)
            parts.append((x * share[..., None]).sum(1))
        return F.normalize(self.project(torch.cat(parts)).float(), dim=-1)

    @torch.no_grad()
    def remember(self, views: Tensor) -> None:
        """Puts views into the queue and drops the oldest."""
        views = views[: len(self.past)].to(self.past.dtype)
        self.past.copy_(torch.cat([views, self.past[: len(self.past) - len(views)]]))
        self.filled.copy_((self.filled + len(views)).clamp(max=len(self.past)))
