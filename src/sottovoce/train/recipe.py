"""What a run is: a teacher, data, a student, objectives, and a list of stages. Read from YAML, checked, scaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sottovoce.config import Component, ConfigError, build, component, components, nested, overlay, override, plain, read_yaml
from sottovoce.data import DataConfig
from sottovoce.pruning import PruningConfig
from sottovoce.registry import OBJECTIVES, STUDENTS, TASKS, suggestion

SHIPPED = Path(__file__).parents[1] / "recipes"
TRAVEL = 40.0  # in units of log_alpha, ramp-up and decay of the rate included


@dataclass(frozen=True)
class Masking:
    """Span masking of the student's input frames (wav2vec 2.0): spans of `span` frames that together cover about `share` of them.

    Each frame starts a span with probability share / span; spans may overlap, so a little less than `share` is masked.
    """

    share: float = 0.8
    span: int = 10


@dataclass(frozen=True)
class Stage:
    """One step of a run. kind ``train`` reads all fields; ``cut`` and ``evaluate`` only say when they happen.

    prune: train gates with the weights. warmup: linear, in updates; then the learning rates fall linearly to 0 at `steps`.
    clip: largest gradient norm of the weights, and separately of the gates. accumulate: micro-batches per update.
    """

    kind: Literal["train", "cut", "evaluate"]
    prune: bool = False
    steps: int = 0
    warmup: int = 0
    lr: float = 2e-4
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    clip: float = 10.0
    accumulate: int = 1
    objectives: tuple[str, ...] = ()  # only these of the recipe's objectives; all when empty
    tasks: tuple[str, ...] = ("fidelity",)  # what a stage of kind evaluate measures


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's result. Defaults < YAML < key=value; see docs/recipes.md."""

    stages: Mapping[str, Stage]
    student: Component = component(STUDENTS, "copy")
    objectives: Mapping[str, Component] = components(OBJECTIVES)
    objective_weights: Mapping[str, float] = field(default_factory=dict)
    pruning: PruningConfig = PruningConfig()
    masking: Masking = Masking()
    data: DataConfig = DataConfig()
    teacher: str = ""
    seed: int = 2022
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    format: Literal["sottovoce", "huggingface"] = "sottovoce"  # of the result; huggingface only for shapes its classes can hold
    log_every: int = 20
    valid_every: int = 1000
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        if not any(stage.kind == "train" for stage in self.stages.values()):
            raise ValueError("a recipe needs at least one stage of kind train")
        for name, stage in self.stages.items():
            if stage.kind == "train" and stage.steps < 1:
                raise ValueError(f"stages.{name}.steps must be at least 1")
            for objective in stage.objectives:
                if objective not in self.objectives:
                    raise ValueError(f"stages.{name}.objectives names '{objective}'{suggestion(objective, self.objectives)}")
            for task in stage.tasks:
                TASKS.get(task)
        if not self.objectives:
            raise ValueError("a recipe needs at least one objective; see 'sottovoce list objectives'")

    @property
    def steps(self) -> int:
        """Updates of all stages together."""
        return sum(stage.steps for stage in self.stages.values() if stage.kind == "train")

    def scaled(self, total: int) -> Recipe:
        """The same schedule in `total` updates: steps, warm-ups and the sparsity ramp keep their proportions.

        A gate moves by about its learning rate per update, so in a short schedule gates and multipliers get a higher one: enough
        for a gate to move by `TRAVEL` in all. At the paper's length this changes nothing.
        """
        trained = [name for name, stage in self.stages.items() if stage.kind == "train"]
        if total < len(trained):
            raise ConfigError(f"--steps {total}: there are {len(trained)} stages to train, with at least one update each")
        factor, stages, left = total / self.steps, dict(self.stages), total
        for name in trained:
            stage = stages[name]
            later = len(trained) - 1 - trained.index(name)
            steps = left if not later else min(max(1, round(stage.steps * factor)), left - later)
            stages[name] = dataclasses.replace(stage, steps=steps, warmup=round(stage.warmup * factor))
            left -= steps
        least = TRAVEL / max(1, sum(stage.steps for stage in stages.values() if stage.prune))
        pruning = dataclasses.replace(
            self.pruning,
            ramp=max(1, round(self.pruning.ramp * factor)),
            gate_lr=max(self.pruning.gate_lr, least),
            multiplier_lr=max(self.pruning.multiplier_lr, least),
        )
        return dataclasses.replace(self, stages=stages, pruning=pruning)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def load_recipe(
    name: str | Path, overrides: Sequence[str] = (), steps: int | None = None, fixed: Mapping[str, Any] | None = None
) -> Recipe:
    """A shipped recipe by name, or a YAML file; then `steps` scales the schedule; `fixed` and the ``key=value`` overrides win over all.

    ConfigError names every mistake.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in recipe_names():
            raise ConfigError(f"no recipe named '{name}'{suggestion(str(name), recipe_names())}")
        path = SHIPPED / f"{name}.yaml"
    data = read_yaml(path, SHIPPED)
    if steps is not None:  # before the overrides, which are to hold as they are written
        data = plain(build(Recipe, data).scaled(steps))
    data = override(data, overrides)
    for key, value in (fixed or {}).items():
        data = overlay(data, nested(key, value))
    return build(Recipe, data)
