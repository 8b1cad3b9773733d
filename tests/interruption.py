"""Runs that are stopped after a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sottovoce.train.run import Stopped
from sottovoce.train.state import TrainState


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, after: int = 1) -> Iterator[None]:
    """The run in this block is stopped by the checkpoint of number `after`. Fails if it does not write so many."""
    save, written = TrainState.save, 0

    def save_and_stop(self: TrainState, *where: Any) -> None:
        nonlocal written
        save(self, *where)
        written += 1
        if written == after:
            raise Stopped("here")

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "save", save_and_stop)
        with pytest.raises(Stopped):
            yield
