"""One subnet of a supernet becomes the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from sottovoce.core.registry import STAGES
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import Report
from sottovoce.pruning.budget import Yardstick
from sottovoce.pruning.subnet import Space, Subnet, Subnets, extract
from sottovoce.train.learner import Learner
from sottovoce.train.loop import validate
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work, cost_of

Share = Callable[[Subnet], float]  # of the teacher's cost
TRIES = 10  # draws for each candidate: some have a width and depth that no budget allows


@STAGES.register("subnet")
class Choose(Stage):
    """Takes a subnet of ``pruning.space`` out of the student: the largest, or the best of some that meet the budget.

    Candidates are drawn at random, then made larger or smaller layer by layer until none of their neighbours uses more of the budget
    (LightHuBERT's code searches at random or by evolution; how it scores is not known). The best has the least loss on held-out recordings.
    """

    @dataclass(frozen=True)
    class Config:
        """choose: "largest", or by "budget". candidates: subnets that are compared. objectives: labels of those by whose loss they are; all
        if empty."""

        choose: Literal["budget", "largest"] = "budget"
        candidates: int = 20
        objectives: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            if self.candidates < 1:
                raise ValueError(f"candidates must be at least 1; got {self.candidates}")

    @property
    def meets_budget(self) -> bool:  # type: ignore[override]
        return bool(self.config.choose == "budget")

    def check(self) -> None:
        self.recipe.objectives_of(self.label, self.config.objectives)
        if self.config.choose == "budget" and not self.recipe.objectives and self.config.candidates > 1:
            raise ValueError(f"stages.{self.label} compares subnets by their loss, and the recipe has no objectives; name one")

    def prepare(self, work: Work, teachers: Teachers) -> None:
        space, encoder = self.recipe.pruning.space, work.encoder
        space.check(encoder.config)
        least = smallest(space, len(encoder.layers))
        self._student(work, teachers, least)  # raises if objectives do not fit it
        if self.config.choose == "budget":
            budget, lowest = self.recipe.pruning.budget, self._shares(encoder.config, teachers)(least)
            if lowest > budget.keep:
                raise ValueError(
                    f"cannot keep only {budget.keep:.4g} of the teacher's {budget.unit}: the smallest subnet of pruning.space has "
                    f"{lowest:.4g}; raise keep, or train a supernet of smaller sizes"
                )

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        work.encoder.to(run.world.device)
        results: dict[str, Any] = {}
        subnet = self.recipe.pruning.space.largest(len(work.encoder.layers))
        if self.config.choose == "budget":
            subnet, report = self._best(run, work)
            run.say(report.text)
            results["budget"] = {**asdict(report), "text": report.text}
        learner = self._student(work, run.teachers, subnet).cpu()
        results |= {"subnet": asdict(subnet), "cost": cost_of(learner.encoder)}
        return Work(learner.encoder, objectives=learner.trained() if work.objectives else {}), results

    def _student(self, work: Work, teachers: Teachers, subnet: Subnet, labels: tuple[str, ...] = ()) -> Learner:
        """A subnet with the objectives, which have learned what those of `work` have. labels: of the objectives; all if empty."""
        recipe, encoder = self.recipe, work.encoder
        chosen = recipe.objectives_of(self.label, labels)
        learner = Learner(encoder, chosen, teachers, recipe.masking, host=recipe.host)
        learner.recall(work.objectives)
        learner.put(extract(encoder, subnet), subnet.layers, Subnets(encoder.config).kept(subnet.dim))
        return learner

    def _best(self, run: Run, work: Work) -> tuple[Subnet, Report]:
        budget, share = self.recipe.pruning.budget, self._shares(work.encoder.config, run.teachers)
        generator = torch.Generator().manual_seed(self.recipe.seed)  # alike in all processes
        found = list(dict.fromkeys(self._candidates(len(work.encoder.layers), share, generator)))
        losses = self._losses(run, work, found)
        best = found[losses.index(min(losses))]
        counted = self._yardstick(work.encoder.config, run.teachers).unit
        return best, Report(budget.unit, budget.keep, None, share(best), 0.0, 0, share(best) <= budget.keep, counted=counted)

    def _candidates(self, depth: int, share: Share, generator: torch.Generator) -> Iterator[Subnet]:
        """Subnets that meet the budget; the smallest of all, which does, if chance finds no other."""
        space, keep, left = self.recipe.pruning.space, self.recipe.pruning.budget.keep, self.config.candidates
        for _ in range(TRIES * left):
            subnet = filled(space, space.draw(depth, generator), keep, share, generator) if left else None
            if subnet is not None:
                left -= 1
                yield subnet
        if left == self.config.candidates:
            yield smallest(space, depth)

    def _losses(self, run: Run, work: Work, found: list[Subnet]) -> list[float]:
        """Of each subnet, on the held-out recordings; all 0 without any, and for one alone."""
        losses = [0.0] * len(found)
        for i, subnet in enumerate(found if len(found) > 1 else ()):
            learner = self._student(work, run.teachers, subnet, self.config.objectives).to(run.world.device)
            learner.fit(lambda: run.stream(self.label), work.objectives)
            losses[i] = validate(run, learner).get("valid/loss", 0.0)
        shared = torch.tensor(losses, dtype=torch.float64, device=run.world.device)
        run.world.share([shared])
        if any(losses):
            run.say(
                f"{self.label}: {len(found)} subnets have losses from {min(losses):.4f} to {max(losses):.4f} on held-out recordings"
            )
        return [float(loss) for loss in shared]

    def _yardstick(self, config: EncoderConfig, teachers: Teachers) -> Yardstick:
        return Yardstick(self.recipe.pruning.budget, teachers.config or config, config.window)

    def _shares(self, config: EncoderConfig, teachers: Teachers) -> Share:
        yardstick, subnets = self._yardstick(config, teachers), Subnets(config)
        return lambda subnet: float(yardstick.share(subnets.shape(subnet)))


def smallest(space: Space, depth: int) -> Subnet:
    """The one of the least sizes. depth: of the supernet."""
    count = space.depths[0]
    return space.subnet(depth, space.dims[0], space.heads[:1] * count, space.ratios[:1] * count)


def filled(space: Space, subnet: Subnet, keep: float, share: Share, generator: torch.Generator) -> Subnet | None:
    """`subnet` with fewer heads or units in random layers until its `share` is at most `keep`, then with more where that allows; ``None``
    if its width and depth are too large."""
    while share(subnet) > keep:
        fewer = list(space.neighbours(subnet, -1))
        if not fewer:
            return None
        subnet = fewer[int(torch.randint(len(fewer), (), generator=generator))]
    while True:
        more = list(space.neighbours(subnet, 1))
        fits = next((more[i] for i in torch.randperm(len(more), generator=generator).tolist() if share(more[i]) <= keep), None)
        if fits is None:
            return subnet
        subnet = fits
