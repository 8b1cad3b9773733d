"""The map from the student's last layer into the teacher's, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sottovoce.core.registry import OBJECTIVES, STAGES
from sottovoce.core.types import Features
from sottovoce.pruning.repair import RIDGE, least_squares
from sottovoce.train.calibration import batches
from sottovoce.train.learner import FITTED, shape_of
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import prepared
from sottovoce.train.work import Work, cost_of


@STAGES.register("fit_map")
class FitMap(Stage):
    """Solves for the linear map from the student's last layer to the main teacher's by least squares. The student stays as it is.

    Students that learned by contrast or by classes (CoLLD, DiceHuBERT) do not speak the teacher's space. Through this map they can be
    read there, and the teacher's own decoder or head can read them.
    """

    @dataclass(frozen=True)
    class Config:
        """clips: recordings that both are compared on. ridge: added to the diagonal, as a share of its mean."""

        clips: int = 200
        ridge: float = RIDGE

        def __post_init__(self) -> None:
            if self.clips < 1 or self.ridge < 0:
                raise ValueError(f"clips must be at least 1 and ridge at least 0; got {self.clips} and {self.ridge}")

    def check(self) -> None:
        labels = list(self.recipe.stages)
        later = [label for label in labels[labels.index(self.label) + 1 :] if self.recipe.stages[label].cls.changes]
        if later:
            raise ValueError(f"stages.{self.label} fits a map to the finished student; put it behind {', '.join(later)}")
        heard = [label for label, part in self.recipe.objectives.items() if OBJECTIVES.get(part.name).reads == "outputs"]
        if heard:
            raise ValueError(f"objectives.{heard[0]} trains the way into the host already; leave stages.{self.label} out")

    def prepare(self, work: Work, teachers: Teachers) -> None:
        if not teachers.main or teachers[teachers.main].answers != "frames":
            raise ValueError(f"stages.{self.label} needs a teacher with frames; name one as TEACHER, or leave the stage out")

    @torch.no_grad()
    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        encoder, teachers, device = work.encoder.to(run.world.device).eval(), run.teachers, run.world.device
        label = teachers.main
        shape = teachers[label].shape.for_student(shape_of(encoder))
        width = encoder.config.dim + shape.dim
        count, total, products = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in ((1,), (width,), (width, width))
        )
        for batch in batches(run, self.label, self.config.clips):
            raw = batch.to(device)
            heard = prepared(raw, teachers.normalize)
            features: Features = encoder(heard.wave, heard.lengths)
            answer = teachers.clean(label, raw, teachers.row_keys(batch), layers=[shape.depth])
            assert isinstance(answer, Features)
            target = answer.on_frames(features.last.shape[1], shape.join, shape.rate).hidden[-1]
            rows = torch.cat([features.hidden[-1], target], 2)[features.valid()].double()
            count, total, products = count + len(rows), total + rows.sum(0), products + rows.t() @ rows
        for each in (count, total, products):
            run.world.sum(each)
        weight, bias, explained = fitted(products / count, total / count, encoder.config.dim, self.config.ridge)
        run.say(f"the map into the teacher's last layer explains {explained:.0%} of its variance")
        work.encoder.cpu()
        found = {f"{FITTED}.weight": weight.float().cpu(), f"{FITTED}.bias": bias.float().cpu()}
        facts = {"clips": self.config.clips, "explained": round(explained, 4), "cost": cost_of(encoder)}
        return Work(work.encoder, objectives=work.objectives | found), facts


def fitted(second: Tensor, mean: Tensor, split: int, ridge: float) -> tuple[Tensor, Tensor, float]:
    """The best linear map (M, N), (M,) from x, the first `split` entries, to y, the others, and the share of y's variance that it explains.

    second: (N + M, N + M), the mean of the products; mean: (N + M,).
    """
    covariance = second - mean[:, None] * mean[None]
    inner, cross, own = covariance[:split, :split], covariance[:split, split:], covariance[split:, split:].diagonal().sum()
    solved = least_squares(inner.clone(), cross, ridge)
    lost = own - 2 * (solved * cross).sum() + (solved * (inner @ solved)).sum()
    return solved.t(), mean[split:] - mean[:split] @ solved, float(1 - lost / own.clamp(min=1e-30))
