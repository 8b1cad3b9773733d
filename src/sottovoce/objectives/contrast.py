"""InfoNCE over the frames of an utterance, in memory that grows with the frames, not with their square."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def packed(frames: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) bool -> (B, M) numbers of each row's true frames, M the most of any row, and (B, M) bool, which of these are there."""
    counts = frames.sum(1)
    size = max(1, int(counts.max()))
    at = torch.argsort(~frames, dim=1, stable=True)[:, :size]
    return at, torch.arange(size, device=frames.device) < counts[:, None]


def pick(x: Tensor, at: Tensor) -> Tensor:
    """(B, T, D) at (B, M) -> (B, M, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


def distractors(there: Tensor, count: int, random: bool) -> Tensor:
    """(B, N) places in (B, M) packed frames to contrast with, those of a row from that row: drawn with replacement, or evenly spaced.

    All frames of a row share one draw (wav2vec 2.0 draws for each frame anew): every frame still meets uniformly drawn distractors, and
    N vectors per row are held instead of M N. count 0: all frames, M of them.
    """
    rows, size = there.shape
    if count == 0 or (not random and size <= count):
        return torch.arange(size, device=there.device).expand(rows, -1)
    counts = there.sum(1, keepdim=True).clamp(min=1)
    share = (
        torch.rand(rows, count, device=there.device)
        if random
        else torch.arange(count, device=there.device).expand(rows, -1) / count
    )
    return torch.minimum((share * counts).long(), counts - 1)


def info_nce(ours: Tensor, targets: Tensor, there: Tensor, others: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, M, D) predictions and targets of packed frames, (B, M) bool, (B, N) `distractors` -> (B, M) loss and (B, M) bool, rightly told.

    ``-log exp(cos(o_t, y_t) / temperature) / sum exp(cos(o_t, y_s) / temperature)`` over the frame itself and its distractors
    (van den Oord et al. 2018, arXiv 1807.03748; wav2vec 2.0, eq. 3). A distractor that is the frame itself does not count.
    """
    ours, targets = F.normalize(ours.float(), dim=-1), F.normalize(targets.float(), dim=-1)
    positive = (ours * targets).sum(-1, keepdim=True)
    negative = ours @ pick(targets, others).transpose(1, 2)
    same = others[:, None] == torch.arange(ours.shape[1], device=ours.device)[:, None]
    absent = ~there.gather(1, others)[:, None]  # padding, where all frames of a batch of unequal rows are taken
    logits = torch.cat([positive, negative.masked_fill(same | absent, -torch.inf)], dim=-1) / temperature
    loss = torch.logsumexp(logits, dim=-1) - logits[..., 0]
    return loss, (logits[..., 1:] < logits[..., :1]).all(-1)
