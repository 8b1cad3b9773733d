"""Ensembles of teachers, weights of teachers by domain, and merged students."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from sottovoce.cli import app
from sottovoce.core.types import Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained, save_pretrained
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.layer_to_layer import LayerToLayer
from sottovoce.train import api, merging
from sottovoce.train.domains import Domains
from sottovoce.train.merging import MergeConfig
from sottovoce.train.recipe import ObjectiveChoice, build_recipe
from sottovoce.train.teachers import TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher
from sottovoce.train.teachers.ensemble import EnsembleTeacher
from tests.conftest import tiny_shape

CPU = TeacherSettings(torch.device("cpu"))


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second teacher of the same width with one layer more."""
    torch.manual_seed(8)
    folder = tmp_path_factory.mktemp("other")
    save_pretrained(folder, Encoder(tiny_shape(4)).reset_parameters(), "hubert", normalize=True)
    return folder


def features_of(source: Path, batch: Batch) -> Features:
    return EncoderTeacher(EncoderTeacher.Config(str(source)), CPU).features(batch)


def test_an_ensemble_averages_or_joins_layers(teacher_folder: Path, other_teacher: Path) -> None:
    batch = Batch(torch.randn(2, 8_000))
    a, b = features_of(teacher_folder, batch), features_of(other_teacher, batch)
    config = EnsembleTeacher.Config(str(teacher_folder), others=(str(other_teacher),), weights=(3.0, 1.0))
    mean = EnsembleTeacher(config, CPU).answer(batch)
    torch.testing.assert_close(mean.hidden[3], 0.75 * a.hidden[3] + 0.25 * b.hidden[4])
    torch.testing.assert_close(mean.hidden[1], 0.75 * a.hidden[1] + 0.25 * b.hidden[1])
    both = EnsembleTeacher(dataclasses.replace(config, combine="concatenate", weights=()), CPU)
    assert both.shape == EncoderShape(64, 3, 320)
    torch.testing.assert_close(both.answer(batch).hidden[2], torch.cat([a.hidden[2], b.hidden[2]], -1))
    assert len(both.models) == 2


def test_an_ensemble_interpolates_other_frame_rates(teacher_folder: Path, tmp_path: Path) -> None:
    slow = dataclasses.replace(tiny_shape(), frontend=dataclasses.replace(tiny_shape().frontend, join=2))
    api.save_student(tmp_path / "slow", Encoder(slow).reset_parameters(), normalize=False, teacher="x")
    config = EnsembleTeacher.Config(str(teacher_folder), others=(str(tmp_path / "slow"),))
    lengths = torch.tensor([16_000, 9_000])
    found = EnsembleTeacher(config, CPU).answer(Batch(torch.randn(2, 16_000), lengths))
    assert found.last.shape == (2, 49, 32)
    assert found.lengths is not None
    assert found.lengths.tolist() == [49, 27]


def test_encoders_of_different_width_have_no_average(teacher_folder: Path, tmp_path: Path) -> None:
    wide = dataclasses.replace(tiny_shape(), dim=48)
    api.save_student(tmp_path / "wide", Encoder(wide).reset_parameters(), normalize=False, teacher="x")
    config = EnsembleTeacher.Config(str(teacher_folder), others=(str(tmp_path / "wide"),))
    with pytest.raises(ValueError, match=r"widths 32, 48 have no average; set combine: concatenate"):
        EnsembleTeacher(config, CPU)
    with pytest.raises(ValueError, match="2 numbers of at least 0"):
        EnsembleTeacher.Config("a", others=("b",), weights=(1.0,))


def choice(domain: str) -> ObjectiveChoice:
    return ObjectiveChoice("layer_to_layer", LayerToLayer.Config(), domain=domain)


def test_a_teacher_weighs_most_on_its_own_domain() -> None:
    """USAD 2.0: w / (w + M - 1) and 1 / (w + M - 1) with w = 10; they sum to 1."""
    domains = Domains({"a": choice("speech"), "b": choice("audio"), "c": choice("music"), "d": choice("")})
    assert domains.weight("a", "speech") == pytest.approx(10 / 12)
    assert domains.weight("b", "speech") == domains.weight("c", "speech") == pytest.approx(1 / 12)
    for domain in ("speech", "audio", "music", "unknown", ""):
        assert sum(domains.weight(label, domain) for label in "abc") == pytest.approx(1)
    assert domains.weight("a", "") == pytest.approx(1 / 3)
    pair = Domains({"a": choice("speech"), "b": choice("speech"), "c": choice("audio")})
    assert sum(pair.weight(label, "speech") for label in "abc") == pytest.approx(1)


def test_rows_are_weighed_by_their_domain() -> None:
    objective = LayerToLayer(LayerToLayer.Config(), EncoderShape(8, 3), EncoderShape(8, 3))
    student, teacher = (Features(x, None, x[0], x[-1]) for x in ([torch.randn(3, 7, 8) for _ in range(4)] for _ in range(2)))
    frames, labels = torch.rand(3, 7) > 0.3, ("speech", "audio", "speech")
    domains = Domains({"a": choice("speech"), "b": choice("audio"), "plain": choice("")})

    def rows(which: list[int]) -> Tensor:
        return objective(student.rows(which), teacher.rows(which), frames[which], Batch(torch.zeros(len(which), 1))).total

    loss = domains.loss("a", objective, student, teacher, frames, Batch(torch.zeros(3, 1), labels=labels))
    torch.testing.assert_close(loss.total, rows([0, 2]) * 10 / 11 + rows([1]) / 11)
    whole = domains.loss("plain", objective, student, teacher, frames, Batch(torch.zeros(3, 1), labels=labels))
    torch.testing.assert_close(whole.total, rows([0, 1, 2]))
    assert set(loss.logs) == set(whole.logs)
    torch.testing.assert_close(loss.logs["l1"], whole.logs["l1"])


def test_domains_need_a_column() -> None:
    recipe = {"stages": {"distill": {"kind": "train", "steps": 2}}, "objectives": {"layer_to_layer": {"domain": "speech"}}}
    with pytest.raises(ValueError, match=r"needs data\.label"):
        build_recipe(recipe)
    with pytest.raises(ValueError, match=r"data\.speeds"):
        build_recipe({**recipe, "data": {"label": "domain", "speeds": [0.9, 1.0]}})


def states(count: int = 3) -> list[dict[str, Tensor]]:
    return [{"a": torch.randn(4, 3), "b": torch.randn(5)} for _ in range(count)]


def test_rules_of_merging() -> None:
    start, x, y = states()
    mean = merging.average(start, [x, y], MergeConfig(weights=(3.0, 1.0)))
    torch.testing.assert_close(mean["a"], 0.75 * x["a"] + 0.25 * y["a"])
    sums = merging.arithmetic(start, [x, y], MergeConfig("arithmetic", (0.9, 0.8)))
    torch.testing.assert_close(sums["b"], start["b"] + 0.9 * (x["b"] - start["b"]) + 0.8 * (y["b"] - start["b"]))


def test_ties_keeps_the_largest_changes_and_one_sign() -> None:
    start = {"w": torch.zeros(6)}
    x, y = {"w": torch.tensor([5.0, 0.1, -4.0, 3.0, 0.2, 0.0])}, {"w": torch.tensor([3.0, 6.0, 0.1, -7.0, 0.0, 0.1])}
    merged = merging.ties(start, [x, y], MergeConfig("ties", keep=0.5, scale=2.0))
    # kept: x 5, -4, 3; y 3, 6, -7. Third: only x. Fourth: -7 outweighs 3.
    torch.testing.assert_close(merged["w"], 2.0 * torch.tensor([4.0, 6.0, -4.0, -7.0, 0.0, 0.0]))


@pytest.fixture(scope="module")
def apart(teacher_folder: Path, other_teacher: Path, speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two students with one start and a teacher each."""
    folder = tmp_path_factory.mktemp("apart")
    common = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "student.count=1"]
    common += ["stages.evaluate=false", f"teachers.second={other_teacher}", "stages.distill.steps=2", "stages.distill.warmup=0"]
    for name, without in (("a", "second"), ("b", "first")):
        api.compress(
            teacher_folder,
            recipe="ensemble",
            data=speech_folder,
            out=folder / name,
            device="cpu",
            overrides=[*common, f"objectives.{without}=false"],
        )
    return [folder / "a", folder / "b"]


def test_students_from_one_start_are_merged(apart: list[Path], tmp_path: Path) -> None:
    a, b = (load_pretrained(folder).encoder.state_dict() for folder in apart)
    result = CliRunner().invoke(app, ["merge", *map(str, apart), "--out", str(tmp_path / "both")])
    assert result.exit_code == 0, result.output
    merged = load_pretrained(tmp_path / "both")
    changed = [name for name in a if not torch.equal(a[name], b[name])]
    assert changed
    for name in changed:
        torch.testing.assert_close(merged.encoder.state_dict()[name], (a[name] + b[name]) / 2)
    assert not merged.projections
    for rule in ("arithmetic", "ties"):
        merging.merge(apart, tmp_path / rule, MergeConfig(rule))
        assert load_pretrained(tmp_path / rule).config == merged.config


def test_other_students_are_refused(apart: list[Path], teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different shapes"):
        merging.merge([apart[0], teacher_folder], tmp_path / "x")
    with pytest.raises(ValueError, match="at least two"):
        merging.merge(apart[:1], tmp_path / "x")
    with pytest.raises(ValueError, match="2 numbers"):
        merging.merge(apart, tmp_path / "x", MergeConfig(weights=(1.0,)))
    with pytest.raises(ValueError, match="another shape than the students"):
        merging.merge(apart, tmp_path / "x", origin=teacher_folder)
    save = tmp_path / "bare"
    model = load_pretrained(apart[1])
    api.save_student(save, model.encoder, normalize=model.normalize, teacher="x")
    with pytest.raises(ValueError, match="give it as --origin"):
        merging.merge([apart[0], save], tmp_path / "x")
    with pytest.raises(ValueError, match="no rule 'best'"):
        MergeConfig("best")


def test_students_of_different_starts_are_refused(apart: list[Path], tmp_path: Path, other_teacher: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(apart[1], moved)
    recipe = yaml.safe_load((moved / "run" / "recipe.yaml").read_text())
    recipe["teachers"]["first"]["source"] = str(other_teacher)
    (moved / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="did not start from the same weights"):
        merging.merge([apart[0], moved], tmp_path / "x")
