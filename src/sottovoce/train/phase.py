"""What a stage adds to the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sottovoce.train.work import Work

if TYPE_CHECKING:
    from sottovoce.train.state import TrainState


class Phase:
    """Adds nothing. A stage's own phase overrides what it needs; `stages.prune.Pruning` uses all of it.

    It is made when the stage begins, by `Train.phase`, where it may put a wrapper around ``learner.student``.
    """

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups besides the weights, as `optim.group` makes them: parameters of the learner or of the phase."""
        return []

    def penalty(self, step: int) -> Tensor | None:
        """A scalar that is added to the loss of update `step` (from 0). It must be the same on every process."""
        return None

    def after_update(self, state: TrainState) -> None:
        """Called after each update that changed the weights; ``state.step`` counts it."""

    def logs(self) -> dict[str, float]:
        """What to log about the last update, beside the losses."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a checkpoint needs to go on from here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse, for a phase that was just made. The learner's weights and the optimiser's state are loaded after it."""

    def finish(self, work: Work) -> None:
        """Adds to `work`, which has the trained encoder, what the next stage needs. The learner is on the CPU."""
