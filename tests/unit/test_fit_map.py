"""The stage that solves for the map from the student's last layer into the teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sottovoce
from sottovoce.core.config import ConfigError
from sottovoce.core.types import Batch
from sottovoce.data import open_data
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe
from sottovoce.train.stages.fit_map import fitted
from tests.unit.test_host_folders import host_of

ALONE = """
student: {name: copy}
stages:
  map: {kind: fit_map, clips: 60, ridge: 1.0e-9}
data: {seconds_per_batch: 8, min_seconds: 0.3, max_seconds: 4.0}
"""


def loaded(folder: Path) -> Host:
    host = load_host(folder)
    assert host is not None
    return host


def test_it_is_the_best_linear_map_and_says_how_good_it_is() -> None:
    torch.manual_seed(0)
    x, noise = torch.randn(4000, 6).double() + 2, torch.randn(4000, 3).double()
    weight, bias = torch.randn(3, 6).double(), torch.randn(3).double()

    def solved(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        both = torch.cat([x, y], 1)
        return fitted(both.t() @ both / len(both), both.mean(0), 6, ridge=0.0)

    found, offset, explained = solved(x @ weight.t() + bias)
    torch.testing.assert_close(found, weight, atol=1e-8, rtol=0)
    torch.testing.assert_close(offset, bias, atol=1e-8, rtol=0)
    assert explained == pytest.approx(1.0)

    y = x @ weight.t() + bias + 2 * noise
    found, offset, explained = solved(y)
    lost = (y - x @ found.t() - offset).square().sum() / (y - y.mean(0)).square().sum()
    assert explained == pytest.approx(1 - float(lost))
    assert 0.3 < explained < 0.9


@torch.no_grad()
def test_a_student_that_is_its_teacher_gets_the_identity(speech_folder: Path, tmp_path: Path) -> None:
    teacher = host_of("ctc, folded", tmp_path / "teacher")
    (tmp_path / "map.yaml").write_text(ALONE)
    result = api.compress(teacher.folder, recipe=tmp_path / "map.yaml", data=speech_folder, out=tmp_path / "out", device="cpu")
    report = next(stage for stage in result.record["stages"] if stage["stage"] == "map")
    assert report["explained"] == pytest.approx(1.0, abs=1e-3)
    batch = open_data(str(speech_folder), load_recipe(tmp_path / "map.yaml").data, 1).valid[0]
    say = [host.outputs(host.listen(batch), batch) for host in (teacher, loaded(result.out))]
    torch.testing.assert_close(say[1].logits[say[1].valid], say[0].logits[say[0].valid], atol=1e-2, rtol=0)


@pytest.mark.parametrize("recipe", ["colld-demo", "dicehubert"])
def test_a_student_that_learned_no_map_is_put_back(recipe: str, speech_folder: Path, tmp_path: Path) -> None:
    teacher = host_of("ctc, folded", tmp_path / "teacher").folder
    shape = [
        "student.name=narrow",
        "student.dim=24",
        "student.depth=2",
        "student.heads=2",
        "student.ffn_dim=32",
        "student.start=cut",
    ]
    few = ["stages.distill.steps=2", "stages.distill.warmup=1", "stages.evaluate=false", "data.seconds_per_batch=4"]
    extra = (
        ["objectives.cluster_distribution.clusters=8", "objectives.cluster_distribution.layer=2"]
        if recipe == "dicehubert"
        else []
    )
    result = api.compress(
        teacher, recipe=recipe, data=speech_folder, out=tmp_path / "out", device="cpu", overrides=[*shape, *few, *extra]
    )
    model = transformers.AutoModelForCTC.from_pretrained(result.out)
    host = loaded(result.out)
    wave = 0.1 * torch.randn(1, 16_000)
    said = host.outputs(host.listen(Batch(wave)), Batch(wave)).logits
    assert said.shape[-1] == model.config.vocab_size
    student = sottovoce.load(result.out, space="teacher")
    assert student(wave).last.shape[-1] == loaded(teacher).pretrained.dim


def mistakes() -> list[tuple[str, str]]:
    train = "  distill: {kind: train, steps: 2}\n"
    layers = "objectives:\n  layers: {name: layer_to_layer}\n"
    return [
        (ALONE.replace("data:", train + "data:") + layers, "put it behind distill"),
        (ALONE + "objectives:\n  host: {name: host_output}\n", "trains the way into the host already"),
        (ALONE.replace("clips: 60", "clips: 0"), "clips must be at least 1"),
    ]


@pytest.mark.parametrize(("text", "why"), mistakes())
def test_mistakes_are_said_when_the_recipe_is_read(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        load_recipe(tmp_path / "map.yaml")


def test_it_needs_a_teacher_with_frames(speech_folder: Path, tmp_path: Path) -> None:
    random: dict[str, Any] = {"name": "random", "dim": 24, "depth": 2, "heads": 2, "frontend": "log_mel", "position_groups": 4}
    text = ALONE.replace("{name: copy}", str(random).replace("'", ""))
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ValueError, match="needs a teacher with frames"):
        api.pretrain(recipe=tmp_path / "map.yaml", data=speech_folder, out=tmp_path / "out", device="cpu")
