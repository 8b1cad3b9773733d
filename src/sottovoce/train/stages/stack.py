"""Distillation of a student that grows: layers are copied, until it is as deep as the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from sottovoce.core.registry import STAGES
from sottovoce.students.layers import chosen, take
from sottovoce.train.learner import Learner
from sottovoce.train.phase import Phase
from sottovoce.train.run import Run
from sottovoce.train.stages.train import Train
from sottovoce.train.state import TrainState
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work

# Of b blocks of k layers each: the former number, from 0, of each layer of the student of (b + 1) k layers.
COPIES: dict[str, Callable[[int, int], list[int]]] = {
    # the last layer of each of k parts of b layers is copied, and stands right behind itself
    "interleaved": lambda b, k: [part * b + min(i, b - 1) for part in range(k) for i in range(b + 1)],
    # the last block is copied, on top
    "top": lambda b, k: [*range(b * k), *range((b - 1) * k, b * k)],
    # the block in the middle is copied, and stands right behind itself
    "middle": lambda b, k: [block * k + i for block in sorted([*range(b), (b - 1) // 2]) for i in range(k)],
}


@STAGES.register("stack")
class Stack(Train):
    """Trains a shallow student and copies some of its layers several times, until it has its depth (Kim, Lee 2026, arXiv 2606.11766).

    Moments of the optimiser are copied with the layers; the schedule of the learning rate is one for the whole stage.
    """

    compiles: ClassVar[bool] = False  # the student changes

    @dataclass(frozen=True)
    class Config(Train.Config):
        """start: layers at the beginning, and by how many it grows; a divisor of the student's depth. They are evenly spaced layers of it.

        copies: "interleaved", so that each layer stays at the same share of the depth (the paper's), or of the last layers on "top"
        (gradual stacking, Reddi et al. 2023) or of those in the "middle" (MIDAS, Saunshi et al. 2024), its controls. updates: for each
        depth, "proportional" to it (the paper's PROP-1) or "equal" (EQL).
        """

        start: int = 3
        copies: Literal["interleaved", "top", "middle"] = "interleaved"
        updates: Literal["proportional", "equal"] = "proportional"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.start < 1:
                raise ValueError(f"start must be at least 1 layer; got {self.start}")

    def check(self) -> None:
        super().check()
        stages = self.recipe.build_stages()
        before = stages[: [stage.label for stage in stages].index(self.label)]
        if trained := [stage.label for stage in before if stage.updates]:
            raise ValueError(
                f"stages.{self.label} of kind stack must be the first that trains, because objectives change with the depth; "
                f"stages.{trained[0]} trains before"
            )

    def prepare(self, work: Work, teachers: Teachers) -> None:
        layers = work.encoder.config.layers
        if len(layers) % self.config.start or any(layer != layers[0] for layer in layers):
            raise ValueError(
                f"stages.{self.label} grows by {self.config.start} equal layers to the student's {len(layers)}; set start to a divisor of "
                "the depth, and choose a student whose layers are alike"
            )
        super().prepare(work, teachers)
        super().learner(work, teachers)  # raises if objectives do not fit the whole student
        if self.updates < len(layers) // self.config.start:
            raise ValueError(f"stages.{self.label} has fewer updates than depths; give it more steps")

    def learner(self, work: Work, teachers: Teachers) -> Learner:
        numbers = chosen(len(work.encoder.layers), self.config.start, "spaced")
        return super().learner(replace(work, encoder=take(work.encoder, numbers)), teachers)

    def phase(self, run: Run, learner: Learner, work: Work) -> Phase:
        return Stacking(learner, self.config, len(work.encoder.layers))


def ends(config: Stack.Config, depths: int) -> list[int]:
    """The last update of each of so many depths."""
    shares = [i + 1 if config.updates == "proportional" else 1 for i in range(depths)]
    return [config.steps * sum(shares[: i + 1]) // sum(shares) for i in range(depths)]


class Stacking(Phase):
    """Makes the student deeper after some updates."""

    def __init__(self, learner: Learner, config: Stack.Config, depth: int) -> None:
        """depth: of the student at the end."""
        self.learner, self.config, self.most = learner, config, depth // config.start

    @property
    def blocks(self) -> int:
        """Times `start` layers that the student has."""
        return len(self.learner.encoder.layers) // self.config.start

    def after_update(self, state: TrainState) -> None:
        if self.blocks < self.most and state.step >= ends(self.config, self.most)[self.blocks - 1]:
            state.replace_parameters(self._grow)

    def _grow(self) -> dict[str, str]:
        encoder = self.learner.encoder
        layers = COPIES[self.config.copies](self.blocks, self.config.start)
        weight = encoder.frontend.projection.weight
        deeper = take(encoder, layers).to(weight.device, weight.dtype)
        return self.learner.put(deeper, layers)

    def logs(self) -> dict[str, float]:
        return {"depth": float(len(self.learner.encoder.layers))}

    def state_dict(self) -> dict[str, Any]:
        return {"blocks": self.blocks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        while self.blocks < state["blocks"]:
            self._grow()
