"""InfoNCE over the frames of an utterance. Its memory grows with the number of frames, not with its square."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def packed(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Packs the true frames of each row: (B, T) bool -> (B, M) frame numbers and (B, M) bool, false on padding. M: most of any row."""
    counts = frames.sum(1)
    size = max(1, int(counts.max()))
    at = torch.argsort(~frames, dim=1, stable=True)[:, :size]
    return at, torch.arange(size, device=frames.device) < counts[:, None]


def pick(x: Tensor, at: Tensor) -> Tensor:
    """(B, T, D) at (B, M) -> (B, M, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


def distractors(valid: Tensor, count: int, random: bool) -> Tensor:
    """Chooses distractors for each row: (B, M) bool, the packed frames -> (B, N) places in them, drawn with replacement or evenly spaced.

    count: N; 0: all M frames. All frames of a row share one draw (wav2vec 2.0 draws for each frame): each still meets uniformly drawn
    distractors, and a row holds N vectors, not M N.
    """
    rows, size = valid.shape
    if count == 0 or (not random and size <= count):
        return torch.arange(size, device=valid.device).expand(rows, -1)
    counts = valid.sum(1, keepdim=True).clamp(min=1)
    share = (
        torch.rand(rows, count, device=valid.device)
        if random
        else torch.arange(count, device=valid.device).expand(rows, -1) / count
    )
    return torch.minimum((share * counts).long(), counts - 1)


def info_nce(outputs: Tensor, targets: Tensor, valid: Tensor, others: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of packed frames: (B, M) loss, and (B, M) bool, true where the target beats all distractors.

    ``-log exp(cos(o_t, y_t) / temperature) / sum exp(cos(o_t, y_s) / temperature)`` over the frame itself and its distractors
    (van den Oord et al. 2018, arXiv 1807.03748; wav2vec 2.0, eq. 3). A distractor that is the frame itself does not count.

    outputs, targets: (B, M, D). valid: (B, M) bool. others: (B, N), from `distractors`.
    """
    outputs, targets = F.normalize(outputs.float(), dim=-1), F.normalize(targets.float(), dim=-1)
    positive = (outputs * targets).sum(-1, keepdim=True)
    negative = outputs @ pick(targets, others).transpose(1, 2)
    same = others[:, None] == torch.arange(outputs.shape[1], device=outputs.device)[:, None]
    absent = ~valid.gather(1, others)[:, None]  # padding, if all frames of a batch of unequal rows are taken
    logits = torch.cat([positive, negative.masked_fill(same | absent, -torch.inf)], dim=-1) / temperature
    loss = torch.logsumexp(logits, dim=-1) - logits[..., 0]
    return loss, (logits[..., 1:] < logits[..., :1]).all(-1)
