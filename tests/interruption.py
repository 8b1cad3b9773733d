"""Runs that are stopped after a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.train import api
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


def ends_the_same(
    run: Callable[[str], api.Result], monkeypatch: pytest.MonkeyPatch, after: int = 1
) -> tuple[api.Result, api.Result]:
    """What ``run("a")`` gives, and ``run("b")`` after it was stopped by the checkpoint of number `after` and repeated. Fails unless both
    have the same weights, to the last bit."""
    undisturbed = run("a")
    with stopped(monkeypatch, after):
        run("b")
    resumed = run("b")
    ours, theirs = (load_file(each.out / "model.safetensors") for each in (resumed, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return undisturbed, resumed
