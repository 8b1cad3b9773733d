"""What a stage adds to the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sottovoce.train.work import Work

if TYPE_CHECKING:
    from sottovoce.train.state import TrainState


class Phase:
    """What a stage adds to the training loop: here, nothing. A stage overrides what it needs; `stages.prune.Pruning` overrides all.

    `Train.phase` makes it when the stage begins, and may wrap ``learner.student`` there.
    """

    def groups(self) -> list[dict[str, Any]]:
        """Further parameter groups, as `optim.group` makes them, of parameters of the learner or of the phase."""
        return []

    def penalty(self, step: int) -> Tensor | None:
        """A scalar to add to the loss of update `step` (from 0). It must be equal in all processes."""
        return None

    def after_update(self, state: TrainState) -> None:
        """Called after each update that changed the weights; ``state.step`` counts it."""

    def logs(self) -> dict[str, float]:
        """Values to log with the losses of the last update."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The tensors and plain values that a checkpoint must hold to resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a new phase from a checkpoint, before the learner's weights and the optimiser's state are loaded."""

    def finish(self, work: Work) -> None:
        """Adds what the next stage needs to `work`, which has the trained encoder. The learner is on the CPU."""
