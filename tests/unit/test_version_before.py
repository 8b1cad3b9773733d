"""What the version before left (tests/fixtures/before) still loads, goes on, is evaluated and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sottovoce
from sottovoce.reporting import page
from sottovoce.reporting.check import problems
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe

BEFORE = Path(__file__).parents[1] / "fixtures/before"


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the version before left, with the recordings that it trained on; the working directory is there."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "speech").mkdir()
    random = np.random.default_rng(3)
    for i in range(12):
        seconds = random.uniform(1.0, 3.0)
        t = np.arange(int(seconds * 16_000)) / 16_000
        pitch = random.uniform(90, 300) * (1 + 0.3 * np.sin(2 * np.pi * random.uniform(0.5, 3) * t))
        wave = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.02 * random.standard_normal(len(t))
        soundfile.write(tmp_path / f"speech/{i:02d}.wav", wave.astype(np.float32), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def repeat(out: str) -> api.Result:
    """The command that made the folder `out`, once more."""
    return api.compress("teacher", recipe="recipe.yaml", data="speech", out=out, device="cpu")


def losses(folder: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {(row["stage"], row["step"]): row["loss"] for row in rows if "loss" in row}


def test_its_recipe_is_read_as_it_was_meant() -> None:
    recipe = load_recipe(BEFORE / "recipe.yaml")
    assert list(recipe.stages) == ["prune", "cut", "distill", "evaluate"]
    assert recipe.steps == 20
    assert set(recipe.objectives) == {"layer_to_layer", "colld"}


def test_its_finished_run_is_known_to_be_finished(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = repeat("finished")
    assert "finished is finished" in capsys.readouterr().err
    assert result.met
    assert result.record["budget"]["after"] == pytest.approx(0.4994, abs=1e-4)


def test_its_run_between_two_stages_goes_on(left: Path) -> None:
    for name in ("distill.json", "distill.safetensors", "evaluate.json", "result.json"):
        (left / "finished/run" / name).unlink()
    assert repeat("finished").met
    assert losses(left / "finished") == pytest.approx(losses(BEFORE / "finished"), rel=1e-2)  # not exactly, on another machine


def test_its_run_interrupted_within_a_stage_goes_on(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repeat("interrupted").met
    assert "going on from update 12" in capsys.readouterr().err
    assert losses(left / "interrupted") == pytest.approx(losses(BEFORE / "finished"), rel=1e-2)


def test_its_student_says_the_same(left: Path) -> None:
    wave, said = torch.sin(torch.arange(8000) / 20.0)[None] * 0.3, json.loads((BEFORE / "features.json").read_text())
    torch.testing.assert_close(sottovoce.load("finished")(wave).last[0, 5], torch.tensor(said["last"]), atol=1e-4, rtol=1e-4)
    mapped = sottovoce.load("finished", space="teacher")(wave).hidden[-1][0, 5]
    torch.testing.assert_close(mapped, torch.tensor(said["teacher_space"]), atol=1e-4, rtol=1e-4)


def test_its_student_is_evaluated_and_compressed_again(left: Path) -> None:
    (result,) = sottovoce.evaluate(["finished"], data="speech", tasks=["fidelity"], vs=["teacher"], out="again", device="cpu")
    before = json.loads((BEFORE / "results/finished/fidelity.json").read_text(encoding="utf-8"))
    for name, measure in before["measures"].items():
        assert result.record["measures"][name]["value"] == pytest.approx(measure["value"], abs=1e-3)
    again = api.compress("finished", recipe="recipe.yaml", data="speech", out="smaller", device="cpu", keep=0.9)
    assert again.record["cost"]["params"] < before["model"]["params"]


def test_its_records_are_read_and_reported(left: Path) -> None:
    for name in ("finished/run/result.json", "results/finished/fidelity.json"):
        assert problems(json.loads((BEFORE / name).read_text(encoding="utf-8"))) == []
    written = page.report([left / "finished", left / "results"], left / "page.html").read_text(encoding="utf-8")
    assert "Fidelity to the teacher" in written
    assert "49.94" in written
