"""Weights of teachers by the domain of a recording (USAD 2.0, Interspeech 2026, doi 10.21437/Interspeech.2026-1296)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives import Objective
from sottovoce.train.recipe import ObjectiveChoice


class Domains:
    """Weighs each row of an objective's loss by the domain of its recording.

    Of M objectives with a domain, the one whose domain a recording has weighs ``w / (w + M - 1)`` on it and the others
    ``1 / (w + M - 1)`` each. On a recording of no objective's domain all weigh ``1 / M``. Objectives without a domain weigh 1.
    """

    def __init__(self, objectives: Mapping[str, ObjectiveChoice]) -> None:
        self.of = {label: part.domain for label, part in objectives.items() if part.domain}
        self.strength = {part.domain: part.domain_weight for part in objectives.values() if part.domain}

    def weight(self, label: str, domain: str) -> float:
        """Of an objective on a recording of `domain`."""
        count, strength = len(self.of), self.strength.get(domain)
        if strength is None:
            return 1 / count
        own = list(self.of.values()).count(domain)  # several objectives of one domain share its weight alike
        return (strength if self.of[label] == domain else 1.0) / (strength * own + count - own)

    def loss(
        self, label: str, objective: Objective, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch
    ) -> Loss:
        """The objective's loss, with the rows weighed. Rows of one weight are computed together."""
        if label not in self.of:
            loss: Loss = objective(student, teacher, frames, batch)
            return loss
        rows: dict[float, list[int]] = {}
        for i, domain in enumerate(batch.labels or ("",) * len(batch.wave)):
            rows.setdefault(self.weight(label, domain), []).append(i)
        parts = []
        for weight, at in rows.items():
            whole = len(at) == len(batch.wave)
            given = (student, teacher, frames, batch) if whole else _rows(student, teacher, frames, batch, at)
            part = objective(*given)
            parts.append(Loss(weight * part.total, part.logs))
        if len(parts) == 1:
            return parts[0]
        logs = {key: sum((part.logs[key] for part in parts[1:]), parts[0].logs[key]) for key in parts[0].logs}
        return Loss(sum((part.total for part in parts[1:]), parts[0].total), logs)


def _rows(
    student: Features, teacher: Answer | None, frames: Tensor, batch: Batch, at: list[int]
) -> tuple[Features, Answer | None, Tensor, Batch]:
    return student.rows(at), None if teacher is None else teacher.rows(at), frames[at], batch.rows(at)
