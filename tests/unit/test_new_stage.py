"""A kind of stage from a file outside the package: read from a recipe, scaled, run, interrupted, resumed and reported."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sottovoce.core.config import ConfigError
from sottovoce.core.registry import STAGES
from sottovoce.reporting import page
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe
from tests.interruption import ends_the_same

MODULE = '''
"""Training on noise, near where the stage began (L2-SP), with a multiplier that grows while the student is too far away."""

from dataclasses import dataclass

import torch
from torch import nn

from sottovoce.core.registry import STAGES
from sottovoce.train import optim
from sottovoce.train.phase import Phase
from sottovoce.train.stages.train import Train


@STAGES.register("anchored")
class Anchored(Train):
    """Trains the student, but no further than a distance from where the stage began."""

    @dataclass(frozen=True)
    class Config(Train.Config):
        """limit: the largest squared distance."""

        limit: float = 1e-4

    def phase(self, run, learner, work):
        learner.student = Noisy(learner.student)
        return Anchor(learner, self.config)


class Noisy(nn.Module):
    """The encoder on audio with noise, in training."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, wave, lengths=None, **options):
        return self.encoder(wave + 0.01 * torch.randn_like(wave) if self.training else wave, lengths, **options)


class Anchor(Phase):
    def __init__(self, learner, config):
        self.weights, self.config, self.seen = list(learner.encoder.parameters()), config, 0
        self.start = [weight.detach().clone() for weight in self.weights]
        self.multiplier = nn.Parameter(torch.zeros(()))

    def groups(self):
        return [optim.group("multiplier", [self.multiplier], 0.5, maximize=True)]

    def penalty(self, step):
        self.distance = sum((now - then).square().sum() for now, then in zip(self.weights, self.start))
        return self.multiplier * (self.distance - self.config.limit)

    def after_update(self, state):
        self.seen += 1

    def logs(self):
        return {"distance": float(self.distance.detach()), "multiplier": float(self.multiplier.detach()), "seen": self.seen}

    def state_dict(self):
        return {"start": self.start, "multiplier": self.multiplier.detach(), "seen": self.seen}

    def load_state_dict(self, state):
        self.start, self.seen = state["start"], state["seen"]
        self.multiplier.data.copy_(state["multiplier"])
'''

RECIPE = """
include: dphubert.yaml
stages:
  prune: false
  cut: false
  distill: false
  hold: {kind: anchored, steps: 10, warmup: 2, lr: 1.0e-3, limit: 1.0e-3}
  evaluate: false
data: {seconds_per_batch: 4, min_seconds: 0.5, max_seconds: 2, workers: 0}
precision: fp32
log_every: 1
save_minutes: 0
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe with a stage whose kind is defined in a file beside it."""
    (tmp_path / "anchored.py").write_text(MODULE)
    (tmp_path / "held.yaml").write_text(RECIPE)
    STAGES.names()  # the package's own come first, as they do in an installation
    spec = importlib.util.spec_from_file_location("anchored", tmp_path / "anchored.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield tmp_path / "held.yaml"
    del STAGES._items["anchored"]


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "audio_per_s"} for row in lines]


def test_it_is_read_checked_and_scaled(recipe: Path) -> None:
    stage = load_recipe(recipe, ["stages.hold.limit=0.5"]).build_stages()[0]
    assert (stage.name, stage.config.limit, stage.updates) == ("anchored", 0.5, 10)
    scaled = load_recipe(recipe, steps=5).stages["hold"].config
    assert (scaled.steps, scaled.warmup) == (5, 1)
    with pytest.raises(ConfigError, match=r"unknown key 'stages.hold.limits'; did you mean 'limit'"):
        load_recipe(recipe, ["stages.hold.limits=0.5"])


def test_it_runs_and_ends_the_same_when_it_was_interrupted(
    recipe: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str, *overrides: str) -> api.Result:
        return api.compress(
            teacher_folder, recipe=recipe, data=speech_folder, out=tmp_path / out, device="cpu", overrides=overrides
        )

    undisturbed, resumed = ends_the_same(run, monkeypatch, after=6)
    assert rows(resumed.out) == rows(undisturbed.out)
    logged = [row for row in rows(resumed.out) if "distance" in row]
    assert [row["seen"] for row in logged] == list(range(1, 11))
    assert any(row["multiplier"] > 0 for row in logged)
    (stage,) = resumed.record["stages"]
    assert (stage["stage"], stage["kind"], stage["updates"]) == ("hold", "anchored", 10)
    assert "hold" in page.report([resumed.out], tmp_path / "page.html").read_text(encoding="utf-8")
