"""What holds for every registered thing, whatever it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sottovoce.core.config import plain
from sottovoce.core.registry import FAMILIES, OBJECTIVES, STUDENTS, TASKS, Registry
from sottovoce.core.types import Batch, Features
from sottovoce.data import open_source
from sottovoce.encoder import Encoder
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Bench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.hub.pretrained import Pretrained
from sottovoce.objectives import Objective, Shape
from tests.conftest import tiny_shape

ALL = [(registry, name) for registry in (FAMILIES, OBJECTIVES, STUDENTS, TASKS) for name in registry.names()]


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


def features(frames: int = 24, rows: int = 3, dim: int = 32, depth: int = 3) -> Features:
    hidden = [torch.randn(rows, frames, dim, requires_grad=True) for _ in range(depth + 1)]
    return Features(hidden, None, hidden[0], hidden[-1], hidden[1:])


def made(name: str) -> Objective:
    cls, shape = OBJECTIVES.get(name), Shape(32, 3)
    objective: Objective = cls(cls.Config(), shape, shape)
    return objective


@pytest.mark.parametrize("name", OBJECTIVES.names())
class TestObjectives:
    def test_counts_the_frames_it_was_given(self, name: str) -> None:
        objective, batch = made(name), Batch(torch.randn(3, 24 * 320 + 80))
        valid = torch.rand(3, 24) > 0.3
        frames = objective.frames(valid, torch.rand(3, 24) > 0.5 if objective.masked else None)
        loss = objective(features(), features() if objective.needs_teacher else None, frames, batch)
        assert int(loss.count) == int(frames.sum())
        assert torch.isfinite(loss.total)
        assert all(not value.requires_grad for value in loss.logs.values())

    def test_sums_add_up_over_rows(self, name: str) -> None:
        """The loss of a batch is the sum of its rows' losses: splitting it over machines or micro-batches changes nothing."""
        objective, student, teacher = made(name).eval(), features(), features()
        if objective.contrasts_rows:
            pytest.skip("compares the rows of a batch with each other")
        wave, frames = torch.randn(3, 24 * 320 + 80), torch.ones(3, 24, dtype=torch.bool)

        def row(which: Features, i: int) -> Features:
            hidden = [layer[i : i + 1] for layer in which.hidden]
            return Features(hidden, None, hidden[0], hidden[-1], hidden[1:])

        whole = objective(student, teacher, frames, Batch(wave)).total
        parts = [objective(row(student, i), row(teacher, i), frames[i : i + 1], Batch(wave[i : i + 1])).total for i in range(3)]
        torch.testing.assert_close(whole, torch.stack(parts).sum(), rtol=1e-4, atol=1e-4)

    def test_reaches_the_student_and_its_own_parameters(self, name: str) -> None:
        objective, student = made(name), features()
        batch = Batch(torch.randn(3, 24 * 320 + 80), labels=("a", "b", "c"))
        loss = objective(student, features(), torch.ones(3, 24, dtype=torch.bool), batch)
        loss.total.backward()
        assert any(layer.grad is not None and layer.grad.any() for layer in student.hidden)
        assert all(p.grad is not None for p in objective.parameters())


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
        cls, bench = TASKS.get(name), Bench(FeatureStore(tmp_path))
        with pytest.raises(ValueError, match=r"(?s).{20}"):
            cls(cls.Config()).measure(open_subject("log-mel"), open_source(speech_folder), bench)


def test_fidelity_gives_plain_numbers_and_the_same_twice() -> None:
    encoder, teacher = Encoder(tiny_shape()).reset_parameters().eval(), Encoder(tiny_shape()).reset_parameters().eval()
    task, batches = TASKS.get("fidelity"), [Batch(torch.randn(2, 8000)), Batch(torch.randn(2, 8000))]
    first, second = (json.dumps(task(task.Config()).run(encoder, teacher, batches)) for _ in range(2))
    assert first == second
