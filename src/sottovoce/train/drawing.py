"""The random choices for a batch: what the student hears, which frames are masked and how far it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Labels, Posteriors
from sottovoce.data.augment import Augment
from sottovoce.encoder.config import EncoderConfig
from sottovoce.encoder.context import Chunks
from sottovoce.train.recipe import Masking


@dataclass(frozen=True)
class Drawn:
    """A batch on the student's device, with the random choices for it: augmentation, mask and context.

    raw: the decoded batch, which each teacher prepares in its own way. batch: the batch as the student reads it. keys: names of the rows'
    targets on disk. student_wave: (B, S), the student's audio, augmented in training. valid, mask: (B, T) bool, frames of the student;
    mask is ``None`` if no objective masks. chunks: the context of this batch; ``None``: the student's own. said: by label of the objective,
    what the host says, or should say (`Learner.listen`).
    """

    raw: Batch
    batch: Batch
    keys: tuple[str, ...]
    student_wave: Tensor
    valid: Tensor
    mask: Tensor | None
    chunks: Chunks | None = None
    said: Mapping[str, Posteriors | Labels] = field(default_factory=dict)


def draw(
    raw: Batch, batch: Batch, keys: tuple[str, ...], config: EncoderConfig, augment: Augment | None, masking: Masking | None
) -> Drawn:
    """Adds valid frames, augmented audio, a mask and a context to a batch. raw, batch, keys: see `Drawn`. config: the student's. augment:
    ``None`` outside of training, where the context is the student's own, too. masking: ``None`` if no objective masks."""
    frames, device = int(config.frontend.frames(batch.wave.shape[1])), batch.wave.device
    valid = torch.ones(len(batch.wave), frames, dtype=torch.bool, device=device)
    if batch.lengths is not None:
        valid = torch.arange(frames, device=device) < config.frontend.frames(batch.lengths)[:, None]
    student_wave = batch.wave if augment is None else augment(batch.wave, batch.lengths)
    chunks = config.context.draw() if augment is not None and config.context is not None and config.context.drawn else None
    mask = None if masking is None else span_mask(valid, masking)
    return Drawn(raw, batch, keys, student_wave, valid, mask, chunks)


def span_mask(valid: Tensor, masking: Masking) -> Tensor:
    """(B, T) bool: spans of frames whose starts are drawn at random, among the valid ones. valid: (B, T) bool."""
    starts = torch.rand(valid.shape, device=valid.device) < masking.share / masking.span
    ends = nn.functional.pad(starts.cumsum(1), (masking.span, 0))[:, : valid.shape[1]]
    return (starts.cumsum(1) > ends) & valid
