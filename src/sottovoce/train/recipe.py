"""The recipe of a run: teachers, data, a student, objectives, and stages. Read from YAML, checked, and scaled."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from sottovoce import recipes
from sottovoce.core.config import (
    Component,
    ConfigError,
    Given,
    assigned,
    build,
    component,
    components,
    nested,
    overlay,
    read_yaml,
)
from sottovoce.core.registry import FAMILIES, OBJECTIVES, STAGES, STUDENTS, TEACHER_KINDS, Registry, suggestion
from sottovoce.data import DataConfig
from sottovoce.data.augment import Augment, FeatureMasks
from sottovoce.encoder import ContextConfig
from sottovoce.encoder.context import whole_frames
from sottovoce.pruning import PruningConfig

if TYPE_CHECKING:
    from sottovoce.train.stages.base import Stage

LABEL = r"[a-zA-Z][a-zA-Z0-9_-]*"
ALONE = "teacher"  # label of the teacher that ``teacher: SOURCE`` names


@dataclass(frozen=True)
class TeacherChoice(Component):
    """A teacher of a recipe: its kind, and in `config` its source."""

    registry: ClassVar[Registry] = TEACHER_KINDS
    key: ClassVar[str] = "kind"
    default: ClassVar[str] = "encoder"


@dataclass(frozen=True)
class StudentChoice(Component):
    """The design of the student. teacher: label of the teacher that the student and the budget start from; the first by default."""

    registry: ClassVar[Registry] = STUDENTS
    teacher: str = ""


@dataclass(frozen=True)
class ObjectiveChoice(Component):
    """An objective under a label. teacher: label of its teacher; the first by default. weight: of its loss in the sum.

    domain: what ``data.label`` says of the recordings that its teacher knows best; "" if it has no domain. domain_weight: how many times
    more than the other teachers this one weighs on them (w of USAD 2.0; see `train.domains`).
    """

    registry: ClassVar[Registry] = OBJECTIVES
    teacher: str = ""
    weight: float = 1.0
    domain: str = ""
    domain_weight: float = 10.0


@dataclass(frozen=True)
class Masking:
    """Span masking of the student's input frames (wav2vec 2.0): spans of `span` frames that together cover about `share` of them.

    Each frame starts a span with probability share / span; spans may overlap, so a little less than `share` is masked.
    """

    share: float = 0.8
    span: int = 10

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.span >= 1):
            raise ValueError(f"share must lie between 0 and 1 and span be at least 1; got {self.share} and {self.span}")


@dataclass(frozen=True)
class HostChoice:
    """How the host of the main teacher takes part.

    keep: whether the student goes back into it; otherwise it is an encoder alone. train: what of it is trained with the student: "none";
    its "head", the last layer of a decoder or all of a CTC recogniser or classifier that is not the encoder; its "decoder", with the head.
    language, task: of Whisper's transcripts, such as ``cs`` and ``transcribe``; an empty language is detected.
    """

    keep: bool = True
    train: Literal["none", "head", "decoder"] = "none"
    language: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"


@dataclass(frozen=True)
class ContextChoice:
    """The context in time that the student is trained for and runs under, in seconds, each a whole number of frames.

    chunk: frames that are computed together; they see each other and nothing after them. left: the past that attention sees, which may be
    ``.inf``. One number is fixed; of two, the least and the most, training draws one for each batch, and the student runs under the most.
    Without a chunk, the student has the context of what it starts from, usually whole recordings.
    """

    chunk: tuple[float, ...] = ()
    left: tuple[float, ...] = (2.0,)

    def __post_init__(self) -> None:
        if len(self.chunk) > 2 or any(math.isinf(size) for size in self.chunk):
            raise ValueError("context.chunk takes one number of seconds, or the least and the most, e.g. [0.16, 0.64]")
        if len(self.left) not in (1, 2) or (len(self.left) == 2 and math.isinf(self.left[1]) and not math.isinf(self.left[0])):
            raise ValueError("context.left takes one number of seconds (.inf: all), or the least and the most, e.g. [1, 4]")

    @property
    def drawn(self) -> bool:
        """Whether each batch has a context of its own."""
        return bool(self.chunk) and len(self.chunk) + len(self.left) > 2

    def frames(self, stride: int) -> ContextConfig | None:
        """In frames of `stride` samples. ValueError unless they are whole; ``None`` without a chunk."""
        if not self.chunk:
            return None
        chunk = [whole_frames("context.chunk", size, stride, 1) for size in self.chunk]
        left = [whole_frames("context.left", past, stride) for past in self.left]
        return ContextConfig((chunk[0], chunk[-1]), (left[0], left[-1]))


@dataclass(frozen=True)
class StageChoice(Component):
    """A stage of a recipe: its kind, by default the label, and the settings of that kind."""

    registry: ClassVar[Registry] = STAGES
    key: ClassVar[str] = "kind"


@dataclass(frozen=True)
class Chosen:
    """How ``--recipe auto`` came to this recipe; empty if it did not.

    hours: that were given. steps: updates in all; ``None``: the recipe's own. overrides: of the recipe. why: the reason, as it was printed.
    """

    hours: float | None = None
    steps: int | None = None
    overrides: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Recipe:
    """All that decides the result of a run. YAML overrides defaults; key=value overrides YAML. See docs/recipes.md."""

    stages: Mapping[str, StageChoice] = components(StageChoice)
    name: str = ""  # for results; that of the recipe's file
    teachers: Mapping[str, TeacherChoice] = components(TeacherChoice)
    student: StudentChoice = component(StudentChoice, "copy")
    objectives: Mapping[str, ObjectiveChoice] = components(ObjectiveChoice)
    pruning: PruningConfig = PruningConfig()
    host: HostChoice = HostChoice()
    masking: Masking = Masking()
    context: ContextChoice = ContextChoice()
    augment: Augment = Augment()
    feature_masks: FeatureMasks = FeatureMasks()
    data: DataConfig = DataConfig()
    seed: int = 2022
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    teacher_precision: Literal["fp32", "bf16"] = "fp32"  # of the weights of teachers that do not say; bf16 halves their memory
    compile: bool = False  # torch.compile for the teachers, and for the student in stages that do not prune
    format: str = "sottovoce"  # of the result; or a family ("hubert"), for shapes that its transformers class can hold
    log_every: int = 20
    valid_every: int = 1000
    save_minutes: float = 5.0
    chosen: Chosen = Chosen()

    def __post_init__(self) -> None:
        for label in self.stages:
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", label) or label in ("result", "demo"):
                raise ValueError(
                    f"'{label}' cannot be a stage's name; use small letters, digits, - and _ (and not result or demo)"
                )
        stages = self.build_stages()
        if not any(stage.changes for stage in stages):
            raise ValueError("a recipe needs at least one stage that changes the student, of kind train for example")
        if self.log_every < 1 or self.valid_every < 1:
            raise ValueError("log_every and valid_every must be at least 1")
        self._check_teachers()
        if self.format not in FAMILIES.names():
            raise ValueError(f"format is 'sottovoce' or a family, not '{self.format}'{suggestion(self.format, FAMILIES.names())}")
        for stage in stages:
            stage.check()
        self._check_order()
        if not self.objectives and any(stage.updates for stage in stages):
            raise ValueError("a recipe needs at least one objective; see 'sottovoce list objectives'")
        self._check_domains()
        if self.feature_masks and self.compile:
            raise ValueError("feature_masks cannot be drawn in a compiled student; set compile: false")
        if self.context.drawn and self.compile:
            raise ValueError("a compiled student has one context; give context.chunk and context.left one number each")

    def _check_teachers(self) -> None:
        """ValueError for a label that cannot name a module, an unknown teacher, or a teacher of the wrong kind."""
        for kind, labels in (("teachers", self.teachers), ("objectives", self.objectives)):
            for label in labels:
                taken = kind == "objectives" and hasattr(nn.ModuleDict(), label)
                if taken or not re.fullmatch(LABEL, label):
                    raise ValueError(f"'{label}' cannot be a label in {kind}; use another word of letters, digits, - and _")
        for where, name in [
            ("student", self.student.teacher),
            *((f"objectives.{k}", o.teacher) for k, o in self.objectives.items()),
        ]:
            if name and name not in self.teachers:
                raise ValueError(f"{where}.teacher names '{name}'{suggestion(name, self.teachers)}")
        for label, objective in self.objectives.items():
            reads, teacher = objective.cls.reads, self.teacher_for(label)
            if teacher and (objective.teacher or reads == "utterance"):
                gives, reads = self.teachers[teacher].cls.answers, "frames" if reads == "outputs" else reads
                fits = [name for name, part in self.teachers.items() if part.cls.answers == reads]
                if gives != reads:
                    what = {"frames": "frames", "utterance": "a vector for each recording"}
                    raise ValueError(
                        f"objectives.{label} learns {what[reads]} and its teacher '{teacher}' gives {what[gives]}; name another "
                        f"in objectives.{label}.teacher ({f'such as {fits[0]}' if fits else 'there is none in teachers'})"
                    )

    def _check_domains(self) -> None:
        """ValueError if recordings cannot be weighed by their domain."""
        for label, objective in self.objectives.items():
            if objective.domain and not self.data.label:
                raise ValueError(f"objectives.{label}.domain needs data.label, the manifest's column that names the domain")
            if objective.domain and self.data.speeds:
                raise ValueError(f"objectives.{label}.domain cannot be used with data.speeds, which change the labels")
            if objective.domain_weight <= 0:
                raise ValueError(f"objectives.{label}.domain_weight must be above 0, not {objective.domain_weight:g}")

    @property
    def main(self) -> str:
        """The label of the teacher that the student and the budget start from; "" without teachers."""
        return self.student.teacher or next(iter(self.teachers), "")

    @property
    def teacher(self) -> str:
        """The source of the main teacher; "" without teachers."""
        return str(self.teachers[self.main].config.source) if self.main else ""

    def teacher_for(self, objective: str) -> str:
        """The label of an objective's teacher; "" without teachers."""
        return self.objectives[objective].teacher or next(iter(self.teachers), "")

    def objectives_of(self, stage: str, labels: Sequence[str]) -> dict[str, ObjectiveChoice]:
        """Those of `labels`, which a stage names; all if it names none. ValueError for a label that there is not."""
        for label in labels:
            if label not in self.objectives:
                raise ValueError(f"stages.{stage}.objectives names '{label}'{suggestion(label, self.objectives)}")
        return {label: choice for label, choice in self.objectives.items() if not labels or label in labels}

    def build_stages(self) -> list[Stage]:
        """Builds the stages, in order."""
        return [choice.build(label, self) for label, choice in self.stages.items()]

    def _check_order(self) -> None:
        """ValueError unless each stage takes exactly what the stage before it gives."""
        stages, given = self.build_stages(), set[str]()
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            for thing in sorted(set(stage.takes) - given):
                raise ValueError(
                    f"stages.{stage.label} is of kind {stage.name} and needs {thing}, which the stage before it does not give; "
                    f"put one of kind {_kinds('gives', thing)} there"
                )
            given = set(stage.gives)
            for thing in sorted(given - set(following.takes if following else ())):
                raise ValueError(
                    f"stages.{stage.label} is of kind {stage.name} and leaves {thing}, so the next stage must be of kind "
                    f"{_kinds('takes', thing)}, " + (f"not stages.{following.label}" if following else "and there is none")
                )

    @property
    def steps(self) -> int:
        """Updates of all stages together."""
        return sum(stage.updates for stage in self.build_stages())

    def in_steps(self, total: int) -> dict[str, Any]:
        """The changes that make all stages together take `total` updates. ConfigError if a stage would get none."""
        trained = [stage for stage in self.build_stages() if stage.updates]
        if not trained:
            raise ConfigError(f"--steps {total}: no stage of this recipe trains")
        if total < len(trained):
            raise ConfigError(f"--steps {total}: there are {len(trained)} stages to train, with at least one update each")
        if total == self.steps:
            return {}
        factor, left, updates = total / self.steps, total, dict[str, int]()
        for later, stage in zip(reversed(range(len(trained))), trained, strict=True):
            updates[stage.label] = min(max(1, round(stage.updates * factor)), left - later) if later else left
            left -= updates[stage.label]
        changes: dict[str, Any] = {}
        for stage in trained:
            changes = overlay(changes, stage.scaled(updates, factor))
        return changes


def _kinds(attribute: Literal["gives", "takes"], thing: str) -> str:
    """The kinds of stages that give or take a thing, joined by "or"."""
    return " or ".join(name for name in STAGES.names() if thing in getattr(STAGES.get(name), attribute))


def load_recipe(
    name: str | Path, overrides: Sequence[str] = (), steps: int | None = None, fixed: Mapping[str, Any] | None = None
) -> Recipe:
    """Loads a shipped recipe or a YAML file, scales its schedule to `steps`, then applies the overrides ``key=value`` and `fixed`.

    ConfigError names every mistake.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in recipes.recipes():
            raise ConfigError(f"no recipe named '{name}'{suggestion(str(name), recipes.recipes())}")
        path = recipes.FOLDER / f"{name}.yaml"
    data = {"name": path.stem, **read_yaml(path, recipes.FOLDER, convert=present_form)}
    if steps is not None:  # before the overrides, which are to hold as they are written
        data = overlay(data, build_recipe(data).in_steps(steps))
    data = overlay(data, present_form(assigned(overrides)))
    for key, value in (fixed or {}).items():
        data = overlay(data, nested(key, value))
    recipe = build_recipe(data)
    for label, teacher in recipe.teachers.items():
        if not teacher.config.source:
            raise ConfigError(f"teachers.{label} has no source; give a folder or hub id as teachers.{label}.source")
    return recipe


def build_recipe(data: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from plain data in its present form. ``teacher: SOURCE`` sets the source of the main teacher."""
    data = dict(data)
    source = data.pop("teacher", None)
    if isinstance(source, Given):
        source = source.text
    if source:
        teachers = {label: fields for label, fields in (data.get("teachers") or {}).items() if _value(fields) is not False}
        student = data.get("student")
        named = _value(student.get("teacher")) if isinstance(student, Mapping) else None
        data["teachers"] = overlay(teachers, {named or next(iter(teachers), ALONE): {"source": source}})
    return build(Recipe, data)


def present_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrites short and former keys of a recipe, or of a part of it, in the present form.

    ``teachers: {name: SOURCE}`` is short for ``{name: {source: SOURCE}}``. Formerly weights stood in ``objective_weights``; now they
    are ``objectives.LABEL.weight``. Formerly a stage that prunes was ``{kind: train, prune: true}``.
    """
    present = dict(data)
    weights = present.get("objective_weights")
    if isinstance(weights, Mapping):
        del present["objective_weights"]
        objectives = dict(present.get("objectives") or {})
        for label, weight in weights.items():
            if _value(objectives.get(label)) is not False:
                objectives[label] = overlay({"weight": weight}, _value(objectives.get(label)) or {})
        present["objectives"] = objectives
    if isinstance(present.get("stages"), Mapping):
        present["stages"] = {label: _present_stage(fields) for label, fields in present["stages"].items()}
    if isinstance(present.get("teachers"), Mapping):
        short = (str, Path)
        present["teachers"] = {
            label: {"source": fields} if isinstance(_value(fields), short) else fields
            for label, fields in present["teachers"].items()
        }
    return present


def _present_stage(given: Any) -> Any:
    """Rewrites a stage in the present form. Formerly, all kinds had the same fields, and the folders of runs list them all."""
    if not isinstance(given, Mapping) or "prune" not in given:
        return given
    prunes, kind = _value(given["prune"]), _value(given.get("kind", "train"))
    if kind == "train":
        fields = {key: value for key, value in given.items() if key not in ("prune", "tasks")}
        return {**fields, "kind": "prune" if prunes else "train"}
    return {key: value for key, value in given.items() if key in ("kind", *(("tasks",) if kind == "evaluate" else ()))}


def _value(given: Any) -> Any:
    return given.value if isinstance(given, Given) else given
