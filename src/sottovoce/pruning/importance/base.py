"""The base class of importances, and what they may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.encoder import Encoder
from sottovoce.pruning.apply import named_tensors
from sottovoce.pruning.moments import Moments
from sottovoce.pruning.plan import PruningPlan
from sottovoce.pruning.unit import Group

Scores = Mapping[str, Tensor]  # group -> (size,) importance of its units


@dataclass(frozen=True)
class Evidence:
    """What there is to judge units by. The functions do their work when they are called.

    encoder: prepared for `plan`. moments: of what the given modules read on calibration audio, without products. gradients: for each
    calibration batch, the derivative of the run's loss by the gate value of every unit, with gates at random values between
    1 - spread and 1. origin: the tensors of the model that the student comes from, named and shaped like the encoder's; "" is the
    model that the run starts from.
    """

    encoder: Encoder
    plan: PruningPlan
    moments: Callable[[Iterable[str]], Mapping[str, Moments]]
    gradients: Callable[[float], Iterator[Mapping[str, Tensor]]]
    origin: Callable[[str], Mapping[str, Tensor]]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return named_tensors(self.encoder)


class Importance:
    """Scores the units of a plan. A subclass is one file: ``@IMPORTANCES.register("name")``, a nested frozen ``Config``, and `scores`.

    additive: whether scores of all groups are in one unit, such as a change of the loss, so that they can be weighed against costs.
    Otherwise only scores of one group are compared, each divided by the group's mean. ranks: whether scores are shares that a group may
    lose, which are compared as they are.
    """

    name: ClassVar[str]
    additive: ClassVar[bool] = False
    ranks: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    def scores(self, evidence: Evidence) -> Scores:
        """(size,) for every group of the plan; larger is more important. ValueError for a kind of unit that it cannot judge."""
        raise TypeError(f"{type(self).__name__} must define scores")

    def rewritten(self, tensors: Mapping[str, Tensor], group: Group, kept: Sequence[int]) -> Mapping[str, Tensor]:
        """The tensors that the units `kept` of `group` are to have before the others are cut; by default, none changes."""
        return {}


def consumers(group: Group) -> list[str]:
    """The modules that read the units of a group."""
    return [part.name.rpartition(".")[0] for part in group.slices if part.scale and part.dim == 1]


def refuse_silent(importance: str, plan: PruningPlan) -> None:
    """ValueError for units that no weights read."""
    for group in plan:
        if not consumers(group) and not (group.size == 1 and len(group.slices) == 1):
            raise ValueError(
                f"importance '{importance}' needs weights that read the units, and none read those of kind '{group.kind}'; take it out "
                "of pruning.units, or choose another importance, such as fisher"
            )
