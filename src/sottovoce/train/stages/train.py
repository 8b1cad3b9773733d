"""Distillation, or self-supervised training: the student learns by the recipe's objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from sottovoce.core.registry import STAGES
from sottovoce.train import needs
from sottovoce.train.learner import Learner
from sottovoce.train.loop import fit
from sottovoce.train.phase import Phase
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.state import TrainState
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work


@STAGES.register("train")
class Train(Stage):
    """Trains the student by the recipe's objectives: distillation, or self-supervision without a teacher.

    A stage that trains in another way derives from this one and overrides `phase`. compiles: whether ``compile`` may compile the student.
    """

    compiles: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """steps: updates. warmup: first updates, in which learning rates rise linearly; afterwards they fall linearly to 0.

        clip: largest norm of the weights' gradient, and separately of each other group's. accumulate: micro-batches per update.
        objectives: labels of the objectives to use; all if empty.

        teacher_fed: each block of layers reads the teacher's states in place of the output of the block below, and learns apart from the
        others; a block ends where an objective compares layers without a map. scale_gradients: gradients are scaled between layers, so
        that losses on many layers do not add up (ARMHuBERT; see `between`). A stage with either is not compiled.
        """

        steps: int
        warmup: int = 0
        lr: float = 2e-4
        weight_decay: float = 0.0
        betas: tuple[float, ...] = (0.9, 0.999)
        clip: float = 10.0
        accumulate: int = 1
        objectives: tuple[str, ...] = ()
        teacher_fed: bool = False
        scale_gradients: bool = False

        def __post_init__(self) -> None:
            if self.steps < 1 or self.accumulate < 1:
                raise ValueError(f"steps and accumulate must be at least 1; got {self.steps} and {self.accumulate}")
            if not 0 <= self.warmup <= self.steps:
                raise ValueError(
                    f"warmup ({self.warmup}) is longer than the stage ({self.steps} steps); --steps scales both together"
                )
            if not (0 < self.lr < float("inf") and self.clip > 0 and len(self.betas) == 2):
                raise ValueError("lr and clip must be above 0, and betas are two numbers")
            if self.teacher_fed and self.scale_gradients:
                raise ValueError("scale_gradients has no use with teacher_fed: no gradient passes from block to block")

    @property
    def updates(self) -> int:
        return int(self.config.steps)

    @property
    def batches(self) -> int:
        return int(self.config.steps * self.config.accumulate)

    def check(self) -> None:
        self.recipe.objectives_of(self.label, self.config.objectives)

    def scaled(self, updates: Mapping[str, int], factor: float) -> dict[str, Any]:
        steps = updates[self.label]
        return {"stages": {self.label: {"steps": steps, "warmup": min(steps, round(self.config.warmup * factor))}}}

    def prepare(self, work: Work, teachers: Teachers) -> None:
        learner = self.trainee(work, teachers)  # raises if objectives, student and teachers do not fit together
        for label, kind in learner.columns.items():
            if not getattr(self.recipe.data, kind):
                raise ValueError(f"objectives.{label} learns from the data's {kind}s; name the manifest's column in data.{kind}")

    def learner(self, work: Work, teachers: Teachers) -> Learner:
        """The student with the objectives of this stage."""
        recipe = self.recipe
        chosen = recipe.objectives_of(self.label, self.config.objectives)
        return Learner(work.encoder, chosen, teachers, recipe.masking, recipe.augment, recipe.feature_masks, recipe.host)

    def trainee(self, work: Work, teachers: Teachers) -> Learner:
        """`learner` with what this stage puts between its layers."""
        learner = self.learner(work, teachers)
        learner.scale_gradients = self.config.scale_gradients
        if self.config.teacher_fed:
            learner.feed()
        return learner

    def phase(self, run: Run, learner: Learner, work: Work) -> Phase:
        """What the stage adds to the training loop. The learner is on the run's device. Its student is the encoder of `work`, which may
        be wrapped here."""
        return Phase()

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        recipe, world = run.recipe, run.world
        learner = self.trainee(work, run.teachers)
        host = None if learner.hosted is None else learner.hosted.host
        memory = needs.estimate(recipe, work.encoder, run.teachers.values(), run.data.largest, host)
        run.say(memory.text())
        if warning := memory.warning(needs.free_memory(world.device)):
            run.say(warning)
        learner.to(world.device)
        phase = self.phase(run, learner, work)
        plain = not (self.config.teacher_fed or self.config.scale_gradients)  # what is between layers differs in every call
        if recipe.compile and self.compiles and plain:
            # a function, since a compiled module would be registered in the learner
            learner.compiled = torch.compile(learner.student.forward, dynamic=True)
        learner.recall(work.objectives)
        saved = run.saved(self.label)
        if saved is None:
            learner.fit(lambda: run.stream(self.label), work.objectives)
        world.share(learner.state_dict().values())
        state = TrainState(self, learner, phase, run.stream(self.label), world, run.accumulate(self.config.accumulate))
        if saved is not None:
            state.load_state_dict(saved)
            run.say(f"{self.label}: going on from update {state.step}")
        log = fit(run, state)
        learner.cpu().eval()
        for label, count in learner.unlearned.items():
            if count:
                run.say(
                    f"objectives.{label}: {count} times a text was left out that the host's tokenizer, or so few frames, cannot spell"
                )
        work = replace(work, encoder=learner.encoder, objectives={**work.objectives, **learner.trained()})
        phase.finish(work)
        return work, {"updates": self.updates, **log}
