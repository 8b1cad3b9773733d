"""``--recipe auto``: a recipe for a teacher, a budget and the hours that there are.

`RULES` is the whole policy, from top to bottom; the first rule that fits is taken. Each says why, and what was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import open_data
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.train.checks import FEWEST_UPDATES, PASSES
from sottovoce.train.dist import connect
from sottovoce.train.recipe import Chosen, Recipe, load_recipe
from sottovoce.train.run import RECIPE, read_recipe
from sottovoce.train.track import duration

BATCH = 16.0  # seconds of audio in the smallest batch; with it, 600 updates made the students of experiments/testbed
UPDATES = 2000  # of a recipe's own batch, if there is time for them; otherwise batches become smaller
ENOUGH = FEWEST_UPDATES * BATCH  # seconds of audio that gates need to decide; less was not tried
HOSTED = 10 * ENOUGH  # below, a student that goes back into its host is cut once; between it and what was measured nothing was
LITTLE = ENOUGH / 10  # that distillation needs; not measured
MANY = 5.0  # passes over the data, above which recordings are varied; 2 did not need it, 20 and 30 did, the rest was not measured
TRAINING = 6.0  # times a forward pass of the teacher: its own, the student's with its gradient, half as much again for all else
CLIP = 10.0  # seconds of a recording that is timed
ROWS = {"cuda": 16}  # recordings at once, by device; 1 elsewhere
FEW_CLIPS = ("stages.prune.clips=100",)  # for importances; the recipe's 1,024 take minutes, which are many of few hours


@dataclass(frozen=True)
class Facts:
    """What rules ask. teacher: its source. copies: whether its weights can be copied and pruned. host: whether it says something that a
    student can learn. audio: seconds of audio that can pass through training; ``None``: any number. passes: over the data, with so
    much audio."""

    teacher: str
    copies: bool
    host: bool
    audio: float | None = None
    passes: float = 0.0

    def has(self, seconds: float) -> bool:
        """Whether there is time and data for so many seconds of audio."""
        return self.audio is None or self.audio >= seconds


@dataclass(frozen=True)
class RecipeRule:
    """recipe: what is taken where `fits`. why: the reason, for the user. measured: where; "" if it was not. overrides: of the recipe."""

    recipe: str
    fits: Callable[[Facts], bool]
    why: str
    measured: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is taken, and why."""
        return f"takes the recipe '{self.recipe}': {self.why}{f' ({self.measured})' if self.measured else ''}."


RULES = (
    RecipeRule(
        "fithubert",
        lambda facts: not facts.copies,
        "the teacher runs inside transformers and cannot be cut, so the student starts from random weights",
    ),
    RecipeRule(
        "training-free",
        lambda facts: not facts.has(LITTLE),
        "there is no time to train, so units are scored and cut once, and least squares repairs what reads them",
    ),
    RecipeRule(
        "minitron-varied",
        lambda facts: facts.host and facts.passes > MANY,
        "the student goes back into its recogniser or classifier, and in so many passes it would learn its recordings by heart; "
        "each pass plays them at another speed, colour and level",
        measured="experiments/real_teachers",  # half of the MACs: 6.1 % WER in 20 passes over eight versions, 7.0 in 30 without
        overrides=FEW_CLIPS,
    ),
    RecipeRule(
        "minitron",
        lambda facts: facts.host and not facts.has(HOSTED),
        "the student goes back into its recogniser or classifier; in so little time, one that was cut once made fewer errors than one "
        "whose gates learned, and than one that also learned what the recogniser says",
        measured="experiments/real_teachers",  # equal minutes, half of the MACs: 10.4 against 21.1 (five seeds) and 15.4 % WER (three)
        overrides=FEW_CLIPS,
    ),
    RecipeRule(
        "minitron",
        lambda facts: not facts.has(ENOUGH),
        "there is too little time for gates to decide, so units are cut once and all of it goes into distillation",
        overrides=FEW_CLIPS,
    ),
    RecipeRule(
        "host",
        lambda facts: facts.host,
        "the teacher is a recogniser or classifier, so the student also learns what it says",
    ),
    RecipeRule(
        "dphubert-demo",
        lambda facts: facts.teacher == "demo",
        "its schedule is made for the demo teacher",
        measured="experiments/testbed",
    ),
    RecipeRule(
        "dphubert",
        lambda facts: True,
        "a cut copy of the teacher was better than students of other designs at every size that we measured",
        measured="experiments/testbed, experiments/colld",
    ),
)


@dataclass(frozen=True)
class Choice:
    """A recipe with its overrides and number of updates (``None``: its own), and what the run remembers of the choice."""

    recipe: str
    overrides: tuple[str, ...]
    steps: int | None
    chosen: Chosen


def choose(teacher: str, data: str, hours: float | None, out: Path | None, device: str, overrides: Sequence[str]) -> Choice:
    """Chooses a recipe. A run in `out` that began with as many hours keeps its choice, so that it can be resumed.

    hours: of computing on this machine; ``None``: as the recipe says. overrides: the user's, which win. ValueError for hours below 0, and
    with several processes, each of which would time the machine for itself.
    """
    if hours is not None and not 0 <= hours < float("inf"):
        raise ValueError(f"--hours must be 0 or more, not {hours:g}")
    if out is not None and (before := remembered(out, hours)) is not None:
        return before
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--recipe auto times this machine in one process; see what it takes with --dry-run, then give that recipe to torchrun"
        )
    model = load_pretrained(teacher)
    facts = Facts(teacher, model.config is not None, says_something(model))
    if hours is None:
        rule = first(facts)
        return Choice(rule.recipe, rule.overrides, None, Chosen(None, None, rule.overrides, rule.sentence))
    affordable = 3600 * hours / seconds_of_training(model.encoder, connect(device).device)
    of_data = [each for each in overrides if each.startswith("data.")]
    speech = 3600 * open_data(data, load_recipe("dphubert", of_data, fixed={"teacher": teacher}).data, 0).hours
    most = PASSES * speech
    audio, limit = min(
        (affordable, f"{hours:g} hours on this machine"),
        (most, f"{PASSES} passes over the data") if most > ENOUGH else (ENOUGH, "the fewest updates that help"),
    )
    rule = first(replace(facts, audio=audio, passes=audio / speech))
    more, steps = fitted(load_recipe(rule.recipe, (*rule.overrides, *overrides), fixed={"teacher": teacher}), audio, overrides)
    size = f"{limit} {'are' if steps is None else f'are {steps:,} updates, or'} about {duration(audio)} of audio in training"
    chosen = Chosen(float(hours), steps, (*rule.overrides, *more), f"{rule.sentence} {size[0].upper()}{size[1:]}.")
    return Choice(rule.recipe, chosen.overrides, steps, chosen)


def first(facts: Facts) -> RecipeRule:
    """The rule that is taken."""
    return next(rule for rule in RULES if rule.fits(facts))


def fitted(recipe: Recipe, audio: float, given: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """Overrides and updates with which a recipe trains on so many seconds of audio, at most as many as its own; ``None`` if it does not
    train. Batches become smaller if there is no time for `UPDATES` of them, unless the user has given their size."""
    trained = [stage for stage in recipe.build_stages() if stage.updates]
    if not trained:
        return (), None
    per_update = sum(stage.batches for stage in trained) / recipe.steps
    batch, overrides = recipe.data.seconds_per_batch, tuple[str, ...]()
    if not any(each.startswith("data.seconds_per_batch=") for each in given):
        batch = min(batch, max(BATCH, round(audio / per_update / UPDATES)))
        overrides = (f"data.seconds_per_batch={batch:g}",)
    return overrides, max(len(trained), min(recipe.steps, int(audio / (per_update * batch))))


def remembered(out: Path, hours: float | None) -> Choice | None:
    """What was chosen for the run in `out`; ``None`` without a run, and if it was for other hours."""
    path = out / "run" / RECIPE
    if not path.exists():
        return None
    had = read_recipe(path)
    chosen = had.get("chosen") or {}
    if not chosen.get("why") or chosen["hours"] != hours:
        return None
    chosen = Chosen(chosen["hours"], chosen["steps"], tuple(chosen["overrides"]), chosen["why"])
    return Choice(had["name"], chosen.overrides, chosen.steps, chosen)


def says_something(model: Pretrained) -> bool:
    """Whether a student can learn what the model's head or decoder says."""
    from sottovoce.hosts.base import host_config
    from sottovoce.hosts.load import kind_of

    if model.config is None or not (model.left_out or model.hf_config.get("host")):
        return False
    hf = host_config(model.hf_config)
    return kind_of(hf) is not None and not hf.get("use_weighted_layer_sum")


@torch.no_grad()
def seconds_of_training(encoder: nn.Module, device: torch.device) -> float:
    """Seconds that training takes on this device for a second of audio, from the time of one forward pass of the teacher."""
    rows = ROWS.get(device.type, 1)
    wave = 0.1 * torch.randn(rows, int(CLIP * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)).to(device)
    encoder.to(device)
    took = 0.0
    for _ in range(2):  # the first is a warm-up
        began = time.perf_counter()
        encoder(wave)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
    encoder.cpu()
    return TRAINING * took / (rows * CLIP)
