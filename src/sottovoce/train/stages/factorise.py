"""Low rank without training: projections become two factors along the principal directions of what they write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sottovoce.core.registry import STAGES
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import Budget, choose, make_plan
from sottovoce.pruning.factors import Directions, Projection, directions, matching, with_factors
from sottovoce.pruning.plan import rebuild
from sottovoce.train.calibration import moments
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work, cost_of


@STAGES.register("factorise")
class Factorise(Stage):
    """Writes projections as two factors along the principal directions of their outputs, without training (LiteASR, arXiv 2502.20583)."""

    @dataclass(frozen=True)
    class Config:
        """layers: patterns of names of projections, such as ``*.ffn.*``; all by default. clips: recordings that the outputs are taken from.

        rank: "variance", the smallest that keeps the share `attention` or `other` of the variance of the projection's outputs; "budget",
        the same with both lost shares multiplied by the one number that meets ``pruning.budget``. multiple: ranks are multiples of it.
        A projection stays as it is where two factors are no cheaper.
        """

        layers: tuple[str, ...] = ()
        rank: Literal["variance", "budget"] = "variance"
        attention: float = 0.99
        other: float = 0.999
        multiple: int = 16
        clips: int = 100

        def __post_init__(self) -> None:
            if not (0 < self.attention < 1 and 0 < self.other < 1):
                raise ValueError(
                    f"attention and other are shares of variance between 0 and 1; got {self.attention} and {self.other}"
                )
            if self.multiple < 1 or self.clips < 1:
                raise ValueError(f"multiple and clips must be at least 1; got {self.multiple} and {self.clips}")

        def lost(self, name: str) -> float:
            """The share of variance that a projection may lose."""
            return 1 - (self.attention if ".attention." in name else self.other)

    def __init__(self, config: Any, label: str, recipe: Any) -> None:
        super().__init__(config, label, recipe)
        self.meets_budget = config.rank == "budget"

    def prepare(self, work: Work, teachers: Teachers) -> None:
        self._plain(work.encoder)
        if self.meets_budget:
            self._budget(work.encoder, teachers.config)

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        encoder, config = work.encoder.to(run.world.device), self.config
        found = {each.name: each for each in self._plain(encoder)}
        of_inputs = {each.name: each.outputs > _inputs(each) for each in found.values()}
        reads = [name for name in found if of_inputs[name]]
        writes = [name for name in found if not of_inputs[name]]
        heard = moments(run, self.label, config.clips, encoder, reads, writes)
        state = encoder.state_dict()
        along = {
            name: directions(state[f"{name}.weight"], state.get(f"{name}.bias"), heard[name], of_inputs[name]) for name in found
        }
        scores = {name: each.left_out() / config.lost(name) for name, each in along.items()}
        results: dict[str, Any] = {}
        if self.meets_budget:
            kept, report = choose(scores, self._budget(encoder, run.teachers.config))
            ranks = {name: len(units) for name, units in kept.items()}
            results["budget"] = {**asdict(report), "text": report.text}
            run.say(report.text)
        else:
            ranks = {name: _rounded_up(int((score > 1).sum()), config.multiple, found[name]) for name, score in scores.items()}
        ranks = {name: rank for name, rank in ranks.items() if found[name].pays(rank)}
        factored = factorised(encoder, along, ranks).cpu()
        work.encoder.cpu()
        run.say(f"{len(ranks)} of {len(found)} projections became two factors")
        return Work(factored, objectives=work.objectives), {**results, "cost": cost_of(factored), "ranks": ranks}

    def _plain(self, encoder: Encoder) -> list[Projection]:
        """The projections to be factored. ValueError if there are none."""
        there = dict(encoder.config.factored)
        found = [each for each in matching(encoder.config, self.config.layers) if each.name not in there]
        if not found:
            raise ValueError(f"stages.{self.label}.layers names no projection of the student, such as 'layers.0.ffn.up_proj'")
        return found

    def _budget(self, encoder: Encoder, teacher: EncoderConfig | None) -> Budget:
        """ValueError if low rank alone cannot meet it."""
        full = with_factors(encoder.config, {each.name: each.full for each in self._plain(encoder)})
        names = [f"low_rank:{each.name}" for each in self._plain(encoder)]
        config = dataclasses.replace(self.recipe.pruning.budget, round_to=self.config.multiple)
        return Budget(config, full, make_plan(full, names), teacher or encoder.config)


@torch.no_grad()
def factorised(encoder: Encoder, along: Mapping[str, Directions], ranks: Mapping[str, int]) -> Encoder:
    """The encoder in which these projections are two factors of these ranks."""
    state: dict[str, Tensor] = encoder.state_dict()
    for name, rank in ranks.items():
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        (outer, inner), moved = along[name].truncated(weight, bias, rank)
        state |= {f"{name}.outer.weight": outer, f"{name}.inner.weight": inner}
        state |= {} if moved is None else {f"{name}.outer.bias": moved}
    return rebuild(encoder, with_factors(encoder.config, ranks), state)


def _inputs(projection: Projection) -> int:
    return int(projection.width) if projection.reads else projection.dim


def _rounded_up(rank: int, multiple: int, projection: Projection) -> int:
    return min(-(-max(rank, 1) // multiple) * multiple, projection.full)
