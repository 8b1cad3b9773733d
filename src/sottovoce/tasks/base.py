"""What every evaluation task is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from sottovoce.types import Batch


class Task:
    """Measures a model. A subclass is one file: ``@TASKS.register("name")``, a nested frozen ``Config``, and `run`."""

    name: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    def run(self, model: nn.Module, reference: nn.Module, batches: Sequence[Batch]) -> dict[str, Any]:
        """Scores of `model` (beside `reference`, its teacher) on prepared batches, as plain numbers."""
        raise TypeError(f"{type(self).__name__} must define run")
