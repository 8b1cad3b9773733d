"""Once-for-all distillation: every update trains another subnet of one encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sottovoce.core.registry import STAGES
from sottovoce.pruning import encoder_cost, total
from sottovoce.pruning.subnet import Supernet
from sottovoce.train.learner import Learner
from sottovoce.train.phase import Phase
from sottovoce.train.run import Run
from sottovoce.train.stages.subnet import Choose
from sottovoce.train.stages.train import Train
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work


@STAGES.register("supernet")
class OnceForAll(Train):
    """Trains the subnets of the student: each batch is heard by another, drawn from ``pruning.space`` (LightHuBERT, arXiv 2203.15610).

    Objectives are evaluated, and held-out losses measured, on the largest subnet. A stage of kind ``subnet`` must follow.
    """

    copies: ClassVar[int] = 1  # the weights of a subnet are gathered
    compiles: ClassVar[bool] = False  # shapes differ from batch to batch

    @dataclass(frozen=True)
    class Config(Train.Config):
        """As in `train`. The sizes are in ``pruning.space``, because a stage that takes a subnet reads them, too."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.teacher_fed:
                raise ValueError("teacher_fed needs a student of the teacher's width, and subnets have others")

    def check(self) -> None:
        super().check()
        stages = self.recipe.build_stages()
        after = [stage for stage in stages[[stage.label for stage in stages].index(self.label) + 1 :] if stage.changes]
        if not after or not isinstance(after[0], Choose):
            raise ValueError(
                f"stages.{self.label} trains subnets, so the next stage that changes the student must be of kind subnet"
            )

    def prepare(self, work: Work, teachers: Teachers) -> None:
        super().prepare(work, teachers)
        self.recipe.pruning.space.check(work.encoder.config)

    def describe(self, work: Work) -> dict[str, Any]:
        return {"subnets": self.recipe.pruning.space.count}

    def phase(self, run: Run, learner: Learner, work: Work) -> Phase:
        supernet = Supernet(work.encoder, run.recipe.pruning.space)
        learner.student = supernet
        return Drawing(supernet)


class Drawing(Phase):
    """Logs the size of the newest subnet."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet

    def logs(self) -> dict[str, float]:
        cost = total(encoder_cost(self.supernet.subnets.shape(self.supernet.last)))
        return {"subnet_params": float(cost.params)}
