"""Connectionist temporal classification: the likelihood of a row of tokens over all its alignments with frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def alignable(tokens: Sequence[Sequence[int]], frames: Tensor) -> Tensor:
    """(B,) bool: the rows that have tokens, and frames enough for them. Equal neighbours need a blank frame between them.

    frames: (B,) number of frames of each row.
    """
    need = [len(row) + sum(a == b for a, b in itertools.pairwise(row)) for row in tokens]
    needed = torch.tensor(need, device=frames.device)
    return (needed > 0) & (needed <= frames)


def ctc(logits: Tensor, frames: Tensor, tokens: Sequence[Sequence[int]], blank: int) -> Tensor:
    """(B,) the negative log-likelihood of each row of tokens (Graves et al. 2006, eq. 8); 0 for rows that are not `alignable`.

    logits: (B, N, C). frames: (B,) number of valid frames of each row.
    """
    kept = alignable(tokens, frames)
    rows = [list(row) if keep else [] for row, keep in zip(tokens, kept.tolist(), strict=True)]
    sizes = torch.tensor([len(row) for row in rows])
    joined = torch.tensor([token for row in rows for token in row], device=logits.device)
    log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    loss = F.ctc_loss(log_probs, joined, frames.cpu(), sizes, blank, reduction="none", zero_infinity=True)
    return torch.where(kept, loss, loss.new_zeros(()))
