"""The probabilities in a host's outputs, with all but the likeliest classes taken as one."""

from __future__ import annotations

import torch
from torch import Tensor

from sottovoce.core.types import Outputs, Posteriors


def posteriors(outputs: Outputs, classes: int = 0, temperature: float = 1.0, tokens: Tensor | None = None) -> Posteriors:
    """The softmax of logits / `temperature`, of which the likeliest `classes` are kept apart (0: all). tokens: see `Posteriors`."""
    count = outputs.logits.shape[-1]
    tops = outputs.logits.topk(min(classes or count, count), dim=-1).indices
    return Posteriors(tops, log_probs(outputs.logits, tops, temperature), outputs.valid, tokens)


def log_probs(logits: Tensor, tops: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, N, K) log-probabilities of the classes `tops` (B, N, K); with those of all others together as the last, (B, N, K + 1), if
    K < C. logits: (B, N, C)."""
    scaled = logits.float() / temperature
    every = scaled.logsumexp(-1, keepdim=True)
    picked = scaled.gather(-1, tops) - every
    if tops.shape[-1] == logits.shape[-1]:
        return picked
    others = scaled.scatter(-1, tops, -torch.inf).logsumexp(-1, keepdim=True) - every
    return torch.cat([picked, others], dim=-1)
