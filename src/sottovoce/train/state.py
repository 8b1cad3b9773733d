"""All that changes while a stage trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import Stream
from sottovoce.train import checkpoint, optim
from sottovoce.train.dist import World
from sottovoce.train.learner import Learner
from sottovoce.train.phase import Phase
from sottovoce.train.track import Tally

if TYPE_CHECKING:
    from sottovoce.train.stages.train import Train


RESEED = 7919  # with another number of processes, seeds of random generators are this times the update, plus the rank


class Diverged(ValueError):
    """Training gave values that are not finite; there is no student."""

    def __init__(self, label: str, what: str) -> None:
        super().__init__(f"{label}: training diverged: {what}; lower stages.{label}.lr, or check the recordings")


class TrainState:
    """What is trained, by which optimiser, how far it is, and which batch comes next. `state_dict` is the checkpoint."""

    def __init__(self, stage: Train, learner: Learner, phase: Phase, stream: Stream, world: World, accumulate: int) -> None:
        self.label, self.config = stage.label, stage.config
        self.learner, self.phase, self.stream, self.world = learner, phase, stream, world
        self.step = 0  # updates so far
        self.lost = self.lost_in_row = 0  # of them, those left out because a gradient was not finite; the newest of these
        self.rows: list[str] | None = None  # of the journal, as the checkpoint has them
        self.accumulate = accumulate  # batches of each process in an update
        self.tally = Tally(world)
        self._seconds, self._since = 0.0, time.monotonic()
        self.optimizer = self._make_optimizer()

    @property
    def seconds(self) -> float:
        """Time spent in training, before interruptions, too."""
        return self._seconds + time.monotonic() - self._since

    def _make_optimizer(self) -> optim.AdamW:
        groups = self.phase.groups()
        apart = {id(parameter) for group in groups for parameter in group["params"]}
        weights = [p for p in self.learner.parameters() if p.requires_grad and id(p) not in apart]
        weight_group = optim.group("weights", weights, self.config.lr, weight_decay=self.config.weight_decay)
        return optim.make_optimizer([weight_group, *groups], self.config)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """All that may be trained, by names that stay when parameters are replaced by smaller ones."""
        named = dict(self.learner.named_parameters())
        known = {id(parameter) for parameter in named.values()}
        for group in self.phase.groups():
            named |= {f"{group['name']}.{i}": p for i, p in enumerate(group["params"]) if id(p) not in known}
        return named

    def replace_parameters(
        self,
        replace: Callable[[], Mapping[str, str] | None],
        shrink: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
    ) -> None:
        """Calls `replace`, which puts other parameters in the place of some, and takes the optimiser's state along. It returns new name ->
        old name of those that have another name.

        shrink: makes the new from the old parameters, given by old name; here it gets what the optimiser holds of them.
        """
        old, before = self._parameters(), self.optimizer
        names = replace() or {}
        self.optimizer = self._make_optimizer()
        new = {name: (names.get(name, name), parameter) for name, parameter in self._parameters().items()}
        optim.carry_over(before, self.optimizer, old, new.values(), shrink)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values. Called by every process at the same time."""
        # each process has its own random generator, and passes over broken recordings of its own
        mine = {"random": checkpoint.random_state(), "stream": self.stream.state(), "tally": self.tally.state_dict()}
        ranks = self.world.gather(mine)
        return {
            "stage": self.label,
            "step": self.step,
            "seconds": self.seconds,
            "lost": self.lost,
            "lost_in_row": self.lost_in_row,
            "learner": self.learner.state_dict(),
            "phase": self.phase.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ranks": ranks,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """The checkpoint may be of another number of processes: the batches then go on in the same order, from the first that one of them
        has not read, and random generators begin anew."""
        ranks, rank, size = saved["ranks"], self.world.rank, self.world.size
        self.phase.load_state_dict(saved["phase"])  # first: it may make the student smaller
        self.optimizer = self._make_optimizer()
        self.learner.load_state_dict(saved["learner"])
        self.optimizer.load_state_dict(saved["optimizer"])
        positions = [_position(each["stream"], len(ranks)) for each in ranks]
        if len(ranks) == size:
            self.stream.load(positions[rank])
            checkpoint.set_random_state(ranks[rank]["random"])
        else:
            self.stream.load(min(positions, key=lambda at: (at["epoch"], at["batch"])))
            torch.manual_seed(RESEED * int(saved["step"]) + rank)
        self.step, self._seconds = int(saved["step"]), float(saved["seconds"])
        self.rows = saved.get("journal")  # not in checkpoints of earlier versions
        self.lost, self.lost_in_row = int(saved.get("lost", 0)), int(saved.get("lost_in_row", 0))
        tallies = [each["tally"] for each in ranks if "tally" in each]  # not in checkpoints of earlier versions
        if tallies:
            self.tally.load_state_dict(tallies[0]["updates"], tallies[rank::size])

    @torch.no_grad()
    def check_finite(self) -> None:
        """Diverged unless an update changed the weights, and the weights and the features of a second of noise are finite."""
        if self.lost == self.config.steps:
            raise Diverged(self.label, f"none of {self.lost} updates had a finite gradient")
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise Diverged(self.label, f"'{name}' is not finite")
        noise = torch.randn(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).to(self.world.device)
        self.learner.eval()
        if not all(bool(x.isfinite().all()) for x in self.learner.student(0.1 * noise).hidden):
            raise Diverged(self.label, "the student's features are not finite")

    def save(self, checkpoints: checkpoint.Checkpoints, rows: Sequence[str] = ()) -> None:
        """Writes a checkpoint, with the journal's rows of this stage. Called by every process at the same time."""
        state = {**self.state_dict(), "journal": list(rows)}
        if self.world.main:
            checkpoints.save(state)
        self.world.wait()


def _position(saved: Mapping[str, int], processes: int) -> dict[str, int]:
    """A position of a stream as it is kept now. Formerly ``index`` counted steps of all processes."""
    batch = saved["batch"] if "batch" in saved else saved["index"] * processes
    return {"epoch": int(saved["epoch"]), "batch": int(batch)}
