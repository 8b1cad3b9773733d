"""`--recipe auto`: which recipe it takes, how it fits the time, and that a run of it can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sottovoce import recipes
from sottovoce.core.config import ConfigError
from sottovoce.reporting import listing
from sottovoce.train import api, auto
from sottovoce.train.auto import BATCH, ENOUGH, HOSTED, LITTLE, RULES, Facts, first, fitted
from sottovoce.train.recipe import load_recipe
from tests.unit import test_families as families

ROOT = Path(__file__).parents[2]
FAST = ["data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32", "stages.evaluate=false"]


@pytest.mark.parametrize(
    ("facts", "recipe"),
    [
        (Facts("x", copies=False, host=False, audio=0.0), "fithubert"),
        (Facts("x", copies=True, host=True, audio=0.0), "training-free"),
        (Facts("x", copies=True, host=True, audio=LITTLE), "minitron"),
        (Facts("x", copies=True, host=True, audio=ENOUGH), "minitron"),
        (Facts("x", copies=True, host=False, audio=LITTLE), "minitron"),
        (Facts("x", copies=True, host=True, audio=HOSTED), "host"),
        (Facts("x", copies=True, host=True, audio=HOSTED, passes=20.0), "minitron-varied"),
        (Facts("x", copies=True, host=True), "host"),
        (Facts("demo", copies=True, host=False, audio=ENOUGH), "dphubert-demo"),
        (Facts("x", copies=True, host=False, audio=ENOUGH), "dphubert"),
    ],
)
def test_the_first_rule_that_fits_is_taken(facts: Facts, recipe: str) -> None:
    assert first(facts).recipe == recipe


def test_every_rule_names_a_recipe_and_what_was_measured() -> None:
    for rule in RULES:
        assert load_recipe(rule.recipe, rule.overrides, fixed={"teacher": "x"}).name == rule.recipe
        for folder in filter(None, rule.measured.split(", ")):
            assert (ROOT / folder / "records.jsonl").is_file()
    name, summary = listing.entries("recipes")[0]
    assert (name, summary) == (recipes.AUTO, recipes.AUTO_SUMMARY)


def test_time_becomes_updates_and_batches() -> None:
    recipe = load_recipe("dphubert", fixed={"teacher": "x"})
    assert fitted(recipe, 160 * 1e6, ()) == (("data.seconds_per_batch=160",), 75_000)  # no more than its own
    assert fitted(recipe, 160 * 5000.0, ()) == (("data.seconds_per_batch=160",), 5000)
    assert fitted(recipe, 64_000.0, ()) == (("data.seconds_per_batch=32",), 2000)
    assert fitted(recipe, ENOUGH, ()) == ((f"data.seconds_per_batch={BATCH:g}",), 600)
    assert fitted(recipe, 10.0, ()) == ((f"data.seconds_per_batch={BATCH:g}",), 2)  # an update for each stage
    assert fitted(recipe, 64_000.0, ("data.seconds_per_batch=160",)) == ((), 400)
    gathered = load_recipe("dphubert", ["stages.prune.accumulate=4", "stages.distill.accumulate=4"], fixed={"teacher": "x"})
    assert fitted(gathered, 4 * 160 * 5000.0, ())[1] == 5000
    assert fitted(load_recipe("training-free", fixed={"teacher": "x"}), 1e6, ()) == ((), None)


def test_a_run_remembers_its_choice_and_is_resumed(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auto, "seconds_of_training", lambda encoder, device: 1.0)  # a second for a second
    options: dict[str, Any] = {"recipe": "auto", "data": speech_folder, "out": tmp_path / "s", "device": "cpu", "keep": 0.9}
    options |= {"hours": 0.01, "overrides": FAST}
    result = api.compress(teacher_folder, **options)
    said = capsys.readouterr().err
    assert "auto takes the recipe 'training-free': there is no time to train" in said
    assert "0.01 hours on this machine are about 36 s of audio in training" in said
    assert result.record["recipe"]["chosen"]["why"].startswith("takes the recipe 'training-free'")
    settings = yaml.safe_load((tmp_path / "s/run/recipe.yaml").read_text())
    assert settings["chosen"] == result.record["recipe"]["chosen"]
    assert settings["name"] == "training-free"

    def timed_again(*_: Any) -> float:
        raise AssertionError("the machine is timed again")

    monkeypatch.setattr(auto, "seconds_of_training", timed_again)
    (tmp_path / "s/run/result.json").unlink()  # as if it had been killed
    again = api.compress(teacher_folder, **options)
    assert again.record["recipe"] == result.record["recipe"]
    assert "training-free" in capsys.readouterr().err


def test_hours_are_fitted_for_the_teacher_at_hand(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "seconds_of_training", lambda encoder, device: 0.01)
    given = {"data": str(speech_folder), "out": tmp_path / "none", "device": "cpu"}
    few = api.resolve("auto", FAST, teacher=str(teacher_folder), keep=0.5, hours=0.01, **given)
    assert (few.name, few.steps, few.pruning.budget.keep) == ("minitron", 225, 0.5)
    most = api.resolve("auto", FAST, teacher=str(teacher_folder), hours=1e4, **given)
    assert (most.name, most.steps) == ("dphubert", 600)  # little data: 600 updates, whatever the time
    assert "The fewest updates that help are 600 updates" in most.chosen.why
    plain = api.resolve("auto", [], teacher=str(teacher_folder), **given)
    assert (plain.steps, plain.chosen.steps, plain.chosen.hours) == (75_000, None, None)
    families.tiny("hubert", head="ForCTC", vocab_size=9, pad_token_id=0).save_pretrained(tmp_path / "host")
    (tmp_path / "host" / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    assert api.resolve("auto", [], teacher=str(tmp_path / "host"), **given).name == "host"
    varied = api.resolve("auto", FAST, teacher=str(tmp_path / "host"), hours=0.1, **given)  # many passes over seconds of speech
    assert (varied.name, list(varied.objectives)) == ("minitron-varied", ["layer_to_layer"])
    assert list(varied.data.degradations) == ["speed", "equalizer", "level"]
    monkeypatch.setattr(auto, "MANY", 1e9)
    cut = api.resolve("auto", FAST, teacher=str(tmp_path / "host"), hours=0.1, **given)
    assert (cut.name, list(cut.objectives), cut.data.degradations) == ("minitron", ["layer_to_layer"], {})


def test_what_auto_cannot_do_is_said(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--hours is for --recipe auto"):
        api.resolve("dphubert", teacher="x", hours=1)
    with pytest.raises(ConfigError, match="without --steps"):
        api.resolve("auto", steps=100, teacher="x", hours=1)
    with pytest.raises(ValueError, match="0 or more"):
        api.resolve("auto", teacher=str(teacher_folder), hours=-1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        api.resolve("auto", teacher=str(teacher_folder), hours=1)
