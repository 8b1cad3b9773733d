"""What scores whole recordings: a student with a score head, or a quality model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch
from sottovoce.encoder import normalize
from sottovoce.encoder.score_head import ScoreHeads, ScoreShape
from sottovoce.evaluation.subjects.fingerprints import fingerprint


class Rater(Protocol):
    """names: of the scores, K of them. fingerprint: a hash of all that decides them. params: of the whole model; ``None`` if unknown."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def params(self) -> int | None: ...

    def rate(self, batch: Batch) -> Tensor:
        """(B, K) scores of a decoded batch, on the CPU."""
        ...


@dataclass(frozen=True)
class HeadRater:
    """A student with score heads. packed: its encoder in the form that answers, on `device`, as the heads are."""

    encoder: nn.Module
    packed: nn.Module
    heads: ScoreHeads
    normalize: bool
    device: torch.device

    @property
    def names(self) -> tuple[str, ...]:
        return score_names(self.heads.shapes)

    @property
    def fingerprint(self) -> str:
        parts = fingerprint(self.encoder, self.normalize), fingerprint(self.heads, False), str(self.heads.shapes)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]

    @property
    def params(self) -> int:
        return sum(weight.numel() for part in (self.encoder, self.heads) for weight in part.parameters())

    @torch.inference_mode()
    def rate(self, batch: Batch) -> Tensor:
        batch = batch.to(self.device)
        wave = normalize(batch.wave, batch.lengths) if self.normalize else batch.wave
        return torch.cat(list(self.heads.rate(self.packed, wave, batch.lengths).values()), dim=1).float().cpu()


def score_names(shapes: Mapping[str, ScoreShape]) -> tuple[str, ...]:
    """The names of a head's scores; with several heads, with their labels before them."""
    return tuple(name if len(shapes) == 1 else f"{label}.{name}" for label, shape in shapes.items() for name in shape.names)


@dataclass(frozen=True)
class JudgeRater:
    """A quality model: a teacher of a kind that gives scores."""

    judge: Any

    @property
    def names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.judge.scores
        return names

    @property
    def fingerprint(self) -> str:
        return str(self.judge.fingerprint())

    @property
    def params(self) -> int | None:
        count: int | None = self.judge.params
        return count

    def rate(self, batch: Batch) -> Tensor:
        scores: Tensor = self.judge.answer(batch.to(self.judge.settings.device)).vectors
        return scores.float().cpu()


class NoFeatures(nn.Module):
    """Stands where a quality model has no encoder."""

    def forward(self, *given: Any, **options: Any) -> Any:
        raise ValueError("a quality model gives scores of recordings and no features; measure it by the task quality-score")
