"""What holds for every registered thing, whatever it is."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sottovoce.cli import app
from sottovoce.core.config import plain
from sottovoce.core.registry import (
    DEGRADATIONS,
    FAMILIES,
    IMPORTANCES,
    OBJECTIVES,
    STAGES,
    STUDENTS,
    TASKS,
    TEACHER_KINDS,
    Registry,
)
from sottovoce.core.types import Answer, Batch, Features, Labels, Outputs, Posteriors, Vectors
from sottovoce.data import open_source
from sottovoce.encoder import Encoder
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Workbench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.hub.pretrained import Pretrained
from sottovoce.objectives import EncoderShape, Objective
from sottovoce.objectives.posteriors import posteriors
from sottovoce.train.recipe import ObjectiveChoice
from sottovoce.train.teachers import Teacher, TeacherSettings
from tests.conftest import tiny_shape
from tests.teacher_weights import WRITERS

ALL = [
    (registry, name)
    for registry in (DEGRADATIONS, FAMILIES, IMPORTANCES, OBJECTIVES, STUDENTS, TASKS, TEACHER_KINDS)
    for name in registry.names()
]


@pytest.mark.parametrize(("registry", "name"), ALL, ids=[f"{registry.kind}-{name}" for registry, name in ALL])
def test_has_a_summary_and_a_config_of_defaults(registry: Registry, name: str) -> None:
    cls = registry.get(name)
    assert len(registry.summary(name)) > 10
    assert dataclasses.is_dataclass(cls.Config)
    assert isinstance(plain(cls.Config()), dict)


@pytest.mark.parametrize("name", TASKS.names())
def test_a_task_says_by_which_version_it_scores(name: str) -> None:
    version = TASKS.get(name).version
    assert isinstance(version, int)
    assert version >= 1


@pytest.mark.parametrize("name", STAGES.names())
class TestStages:
    def test_has_a_summary_a_frozen_config_and_is_listed(self, name: str) -> None:
        cls = STAGES.get(name)
        required = [
            spec.name for spec in dataclasses.fields(cls.Config) if spec.default is spec.default_factory
        ]  # both are missing
        config = cls.Config(**dict.fromkeys(required, 1))
        assert isinstance(plain(config), dict)
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.steps = 2
        assert cls.Config.__doc__
        listed = CliRunner().invoke(app, ["list", "stages"])
        assert re.search(rf"^{name} +{re.escape(STAGES.summary(name).replace(chr(96), ''))}$", listed.output, re.MULTILINE)

    def test_what_it_gives_some_stage_takes(self, name: str) -> None:
        taken, given = (
            {thing for kind in STAGES.names() for thing in getattr(STAGES.get(kind), side)} for side in ("takes", "gives")
        )
        assert set(STAGES.get(name).gives) <= taken
        assert set(STAGES.get(name).takes) <= given


def features(frames: int = 24, rows: int = 3, dim: int = 32, depth: int = 3) -> Features:
    hidden = [torch.randn(rows, frames, dim, requires_grad=True) for _ in range(depth + 1)]
    return Features(hidden, None, hidden[0], hidden[-1], hidden[1:])


def made(name: str) -> Objective:
    cls, shape = OBJECTIVES.get(name), EncoderShape(32, 3)
    objective: Objective = cls(cls.Config(), shape, EncoderShape(8, 0) if cls.reads == "utterance" else shape)
    return objective


def outputs(rows: int = 3, count: int = 24) -> Outputs:
    """What a host says with a student inside."""
    return Outputs(torch.randn(rows, count, 10, requires_grad=True), torch.ones(rows, count, dtype=torch.bool))


def heard(objective: Objective) -> Features | Outputs:
    """What an objective reads of a student, for three rows."""
    return outputs() if objective.reads == "outputs" else features()


def answer(objective: Objective) -> Answer | Posteriors | Labels | None:
    """What a teacher says of three rows, with nonsense in all that the objective does not say it reads."""
    needs = objective.needs()
    if needs.targets == "none":
        return None
    if needs.targets == "outputs":
        return posteriors(Outputs(torch.randn(3, 24, 10), torch.ones(3, 24, dtype=torch.bool)), needs.classes, needs.temperature)
    if needs.targets == "labels":
        return Labels("tokens", torch.randint(10, (3, 25)), torch.ones(3, 24, dtype=torch.bool))
    if objective.reads == "utterance":
        return Vectors(torch.randn(3, 8))
    found = features()
    for i in range(4):
        if needs.layers is not None and i not in needs.layers:
            found.hidden[i] = torch.full_like(found.hidden[i], torch.nan)
        if i and i not in needs.taps:
            found.ffn[i - 1] = torch.full_like(found.hidden[i], torch.nan)
    nothing = torch.full_like(found.last, torch.nan)
    return Features(found.hidden, None, nothing, nothing, found.ffn)


@pytest.mark.parametrize("name", OBJECTIVES.names())
class TestObjectives:
    def test_says_what_it_needs_and_divides_by(self, name: str) -> None:
        objective, batch = made(name), Batch(torch.randn(3, 24 * 320 + 80), texts=("ab", "", "c"))
        valid = torch.rand(3, 24) > 0.3
        frames = objective.frames(valid, torch.rand(3, 24) > 0.5 if objective.needs().masked_input else None)
        rows_or_characters = 3
        assert int(objective.denominator(frames, batch)) in (int(frames.sum()), rows_or_characters)
        loss = objective(heard(objective), answer(objective), frames, batch)
        assert torch.isfinite(loss.total)
        assert all(not value.requires_grad and torch.isfinite(value) for value in loss.logs.values())

    def test_has_no_field_that_recipes_have_beside_it(self, name: str) -> None:
        own = {spec.name for spec in dataclasses.fields(OBJECTIVES.get(name).Config)}
        assert not own & {"name", *ObjectiveChoice.own_fields()}

    def test_sums_add_up_over_rows(self, name: str) -> None:
        """The loss of a batch is the sum of its rows' losses, and so is what it is divided by: splitting it over machines or micro-batches
        changes nothing."""
        objective = made(name).eval()
        student = heard(objective)
        if objective.needs().compares_rows:
            pytest.skip("compares the rows of a batch with each other")
        teacher: Any = answer(objective) if objective.reads == "outputs" else features()
        if objective.reads == "utterance":
            teacher = Vectors(torch.randn(3, 8))
        wave, frames = torch.randn(3, 24 * 320 + 80), torch.ones(3, 24, dtype=torch.bool)

        def row(which: Any, i: int) -> Any:
            if isinstance(which, Vectors):
                return Vectors(which.vectors[i : i + 1])
            if not isinstance(which, Features):
                return dataclasses.replace(
                    which, **{key: value[i : i + 1] for key, value in vars(which).items() if isinstance(value, torch.Tensor)}
                )
            hidden = [layer[i : i + 1] for layer in which.hidden]
            return Features(hidden, None, hidden[0], hidden[-1], hidden[1:])

        names, texts = ("a", "", "c"), ("a b", "", "cc")
        batches = [Batch(wave[i : i + 1], labels=names[i : i + 1], texts=texts[i : i + 1]) for i in range(3)]
        whole = Batch(wave, labels=names, texts=texts)
        parts = [objective(row(student, i), row(teacher, i), frames[i : i + 1], batches[i]).total for i in range(3)]
        total = objective(student, teacher, frames, whole).total
        torch.testing.assert_close(total, torch.stack(parts).sum(), rtol=1e-4, atol=1e-4)
        counts = [int(objective.denominator(frames[i : i + 1], batches[i])) for i in range(3)]
        assert int(objective.denominator(frames, whole)) == sum(counts)

    def test_reaches_the_student_and_its_own_parameters(self, name: str) -> None:
        objective = made(name)
        student = heard(objective)
        batch = Batch(torch.randn(3, 24 * 320 + 80), labels=("a", "b", "c"), texts=("a", "b", "c"))
        loss = objective(student, answer(objective), torch.ones(3, 24, dtype=torch.bool), batch)
        loss.total.backward()
        layers = [student.logits] if isinstance(student, Outputs) else student.hidden
        assert any(layer.grad is not None and layer.grad.any() for layer in layers)
        assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("name", TEACHER_KINDS.names())
class TestTeacherKinds:
    def opened(self, name: str, folder: Path) -> Teacher:
        cls = TEACHER_KINDS.get(name)
        source = WRITERS[name](folder) if name in WRITERS else folder
        teacher: Teacher = cls(cls.Config(source=str(source)), TeacherSettings(torch.device("cpu")))
        return teacher

    def test_answers_in_its_shape_whatever_the_padding(self, name: str, teacher_folder: Path) -> None:
        """A recording has one answer, alone or beside a longer one; it is as wide and deep as the teacher says."""
        teacher, wave = self.opened(name, teacher_folder), torch.randn(2, 16_000)
        wave[1, 9_000:] = 0
        both = teacher.answer(Batch(wave, torch.tensor([16_000, 9_000])))
        alone = teacher.answer(Batch(wave[1:, :9_000]))
        if isinstance(both, Vectors):
            assert isinstance(alone, Vectors)
            assert teacher.answers == "utterance"
            assert both.vectors.shape == (2, teacher.shape.dim)
            torch.testing.assert_close(both.vectors[1:], alone.vectors, atol=1e-4, rtol=1e-3)
            return
        assert isinstance(alone, Features)
        assert teacher.answers == "frames"
        assert len(both.hidden) == teacher.shape.depth + 1
        assert both.last.shape[2] == teacher.shape.dim
        assert abs(both.last.shape[1] * teacher.shape.stride - 16_000) < 2 * teacher.shape.stride
        assert both.lengths is not None
        end = int(both.lengths[1])
        torch.testing.assert_close(both.last[1:, :end], alone.last, atol=1e-4, rtol=1e-3)

    def test_learns_nothing_and_is_known_again(self, name: str, teacher_folder: Path) -> None:
        teacher, again = (self.opened(name, teacher_folder) for _ in range(2))
        assert teacher.fingerprint() == again.fingerprint()
        found = teacher.answer(Batch(torch.randn(1, 8_000)))
        assert not (found.vectors if isinstance(found, Vectors) else found.last).requires_grad
        other = teacher.__class__(dataclasses.replace(teacher.config, precision="bf16"), teacher.settings)
        assert other.fingerprint() != teacher.fingerprint()


@pytest.mark.parametrize("name", STUDENTS.names())
def test_students_build_an_encoder_and_say_when_they_cannot(name: str) -> None:
    cls = STUDENTS.get(name)
    fields = {"dim": 32, "heads": 4, "depth": 2, "ffn_dim": 64, "conv_dims": (8,) * 7} if name == "random" else {}
    teacher = Pretrained(Encoder(tiny_shape()).eval(), tiny_shape(), "hubert", False, "here")
    encoder = cls(cls.Config(**fields)).build(teacher)
    assert isinstance(encoder, Encoder)
    assert encoder(torch.randn(1, 4000)).last.shape[0] == 1


@pytest.mark.parametrize("name", TASKS.names())
class TestTasks:
    def test_says_what_it_is_and_what_it_reads(self, name: str) -> None:
        cls = TASKS.get(name)
        assert cls.title
        assert cls.reads
        assert isinstance(cls.compares, bool)

    def test_says_what_is_missing(self, name: str, speech_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
        """Audio without labels is refused in one sentence, before anything is trained; fidelity needs a teacher instead."""
        cls, bench = TASKS.get(name), Workbench(FeatureStore(tmp_path))
        with pytest.raises(ValueError, match=r"(?s).{20}"):
            cls(cls.Config()).measure(open_subject("log-mel"), open_source(speech_folder), bench)


def test_fidelity_gives_plain_numbers_and_the_same_twice() -> None:
    encoder, teacher = Encoder(tiny_shape()).reset_parameters().eval(), Encoder(tiny_shape()).reset_parameters().eval()
    task, batches = TASKS.get("fidelity"), [Batch(torch.randn(2, 8000)), Batch(torch.randn(2, 8000))]
    first, second = (json.dumps(task(task.Config()).run(encoder, teacher, batches)) for _ in range(2))
    assert first == second
