"""Beam search with length normalisation. N rows, B items, K beams, V classes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

NEVER = float("-inf")


class Speller(Protocol):
    """A decoder that predicts one token at a time. Its state has one entry per row; the caller provides the first state."""

    start: int
    end: int

    def step(self, last: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(N,) last tokens -> (N, V) log-probabilities of the next token, and the new state."""

    def pick(self, state: Any, rows: Tensor) -> Any:
        """The state of the rows with indices `rows`, (M,)."""


def beam_search(
    speller: Speller, state: Any, longest: list[int], beam: int, alpha: float, device: torch.device
) -> list[tuple[list[int], float]]:
    """The best hypothesis of each item: its tokens without start and end, and its score, log-probability / (tokens with end) ** alpha.

    state: with one row per item. longest: the most tokens of each item, with the end token. beam: hypotheses per item; 1 is greedy
    search. An item is done when no open hypothesis can become the best, or when `beam` hypotheses have ended. Items do not influence
    each other.
    """
    alive = list(range(len(longest)))
    ended: list[list[tuple[list[int], float]]] = [[] for _ in longest]
    last = torch.full((len(alive),), speller.start, device=device)
    scores = torch.zeros(len(alive), 1, device=device)  # (B, K)
    tokens = torch.zeros(len(alive), 1, 0, dtype=torch.long, device=device)  # (B, K, tokens)
    for length in range(1, max(longest, default=0) + 1):
        log_probs, state = speller.step(last, state)
        items, beams = scores.shape
        total = scores[..., None] + log_probs.view(items, beams, -1).to(scores.dtype)
        classes = total.shape[-1]
        must_end = torch.tensor([longest[item] <= length for item in alive], device=device)
        others = torch.arange(classes, device=device) != speller.end
        total = total.masked_fill(must_end[:, None, None] & others, NEVER)
        best, place = total.flatten(1).topk(min(2 * beam, beams * classes))
        origin, token = place // classes, place % classes
        ends = token == speller.end
        for row, rank in ends[:, :beam].nonzero().tolist():
            if best[row, rank] > NEVER:
                ended[alive[row]].append((tokens[row, origin[row, rank]].tolist(), float(best[row, rank]) / length**alpha))
        scores, rank = best.masked_fill(ends, NEVER).topk(min(beam, best.shape[1]))
        origin, token = origin.gather(1, rank), token.gather(1, rank)
        reachable = scores[:, 0].tolist()
        rows = [
            row
            for row, item in enumerate(alive)
            if len(ended[item]) < beam
            and reachable[row] / longest[item] ** alpha > max((score for _, score in ended[item]), default=NEVER)
        ]
        if not rows:
            break
        keep = torch.tensor(rows, device=device)
        alive, scores, origin, token = [alive[row] for row in rows], scores[keep], origin[keep], token[keep]
        state = speller.pick(state, (keep[:, None] * beams + origin).flatten())
        tokens = torch.cat([tokens[keep[:, None], origin], token[..., None]], dim=-1)
        last = token.flatten()
    return [max(hypotheses, key=lambda each: each[1], default=([], NEVER)) for hypotheses in ended]
