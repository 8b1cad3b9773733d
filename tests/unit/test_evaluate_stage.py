"""Tasks within a run: on data of their own, on held-out audio, and what is refused before hours are spent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from sottovoce.core import ledger
from sottovoce.core.config import ConfigError, build, plain
from sottovoce.core.registry import TASKS
from sottovoce.data import open_source
from sottovoce.evaluation.suite.audio import audio_digest
from sottovoce.reporting import page
from sottovoce.reporting.check import problems
from sottovoce.train import api
from sottovoce.train.recipe import Recipe, load_recipe

QUICK = "training: {lrs: [1e-2], steps: 10, batch: 8, evaluate_every: 5}"
STEPS = ["stages.distill.steps=2", "stages.distill.warmup=1", "stages.prune=false", "stages.cut=false"]
FAST = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]


@pytest.fixture
def words(speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with a keyword for each recording. Features go to a cache of this test."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "words").mkdir()
    rows = ["path\tlabel\tsplit"]
    for i, file in enumerate(sorted(speech_folder.glob("*.wav"))):
        shutil.copy(file, tmp_path / "words" / file.name)
        rows.append(f"{file.name}\tword{i % 2}\t{('train', 'train', 'dev', 'test')[i // 2 % 4]}")
    (tmp_path / "words/manifest.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "words/manifest.tsv"


def recipe(folder: Path, tasks: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"include: dphubert.yaml\nstages: {{evaluate: {{tasks: {tasks}, seeds: [1]}}}}\n")
    return path


def test_a_task_runs_on_data_of_its_own(words: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    tasks = f"{{fidelity: {{}}, ks: {{data: {words}, task: {{{QUICK}}}}}, near: {{task: {{name: fidelity, frames: 100}}, data: {words}}}}}"
    out = tmp_path / "s"
    options = {"recipe": recipe(tmp_path, tasks), "data": speech_folder, "out": out, "device": "cpu"}
    result = api.compress(teacher_folder, overrides=[*FAST, *STEPS], **options)
    stage = result.record["stages"][-1]
    assert 0 <= stage["measures"]["ks"]["accuracy"]["value"] <= 100
    assert 0 < stage["measures"]["near"]["cosine"]["value"] <= 1
    assert 0 < result.record["fidelity"]["mean"]["cosine"] <= 1
    records = ledger.read_all(out / "evaluation/records.jsonl")
    assert [(record["model"]["name"], record["task"]["entry"]) for record in records] == [("s", "ks"), ("s", "near")]
    assert [problems(record) for record in records] == [[], []]
    assert [record["data"]["audio"] for record in records] == [audio_digest(open_source(words))] * 2
    assert "Keyword spotting" in page.report([out], tmp_path / "page.html").read_text(encoding="utf-8")

    for name in ("evaluate.json", "result.json"):  # a kill came before the stage was finished
        (out / "run" / name).unlink()
    again = api.compress(teacher_folder, overrides=[*FAST, *STEPS], **options)
    assert again.record["stages"][-1]["measures"] == stage["measures"]
    assert len(ledger.read_all(out / "evaluation/records.jsonl")) == 2


def test_a_task_without_the_data_that_it_reads_is_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ks reads the keyword in a column 'label', which held-out recordings do not have"):
        load_recipe(recipe(tmp_path, "[fidelity, ks]"))
    with pytest.raises(ConfigError, match=r"unknown key 'stages.evaluate.tasks.ks.task.hed'"):
        load_recipe(recipe(tmp_path, "{ks: {data: words.tsv, task: {hed: 3}}}"))


@pytest.mark.parametrize(
    ("tasks", "says"),
    [("{ks: {data: nowhere.tsv}}", "nowhere.tsv does not exist"), ("{ks: {data: SPEECH}}", "label")],
)
def test_data_that_cannot_be_used_is_refused_before_training(
    tasks: str, says: str, teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    path = recipe(tmp_path, tasks.replace("SPEECH", str(speech_folder)))
    with pytest.raises(ValueError, match=says):
        api.compress(teacher_folder, recipe=path, data=speech_folder, out=tmp_path / "s", overrides=[*FAST, *STEPS], device="cpu")
    assert not (tmp_path / "s/run/metrics.jsonl").exists()


def test_short_forms_survive_a_round_trip(tmp_path: Path) -> None:
    made = load_recipe(recipe(tmp_path, "{words: {data: [a.tsv, b.tsv], task: ks}, fidelity: }"))
    choices = made.stages["evaluate"].config.tasks
    assert [source.path for source in choices["words"].data] == ["a.tsv", "b.tsv"]
    assert [choice.task.name for choice in choices.values()] == ["ks", "fidelity"]
    assert build(Recipe, yaml.safe_load(yaml.safe_dump(plain(made), sort_keys=False))) == made


def test_a_task_that_fails_after_training_does_not_cost_the_student(
    words: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("the labels make no sense")

    monkeypatch.setattr(TASKS.get("ks"), "measure", fail)
    path = recipe(tmp_path, f"{{ks: {{data: {words}}}}}")
    result = api.compress(
        teacher_folder, recipe=path, data=speech_folder, out=tmp_path / "s", overrides=[*FAST, *STEPS], device="cpu"
    )
    assert result.record["stages"][-1]["failed"] == {"ks": "the labels make no sense"}
    assert (tmp_path / "s/model.safetensors").exists()


def test_a_comparison_in_a_run_without_a_teacher_is_refused(words: Path, speech_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(
        f"include: pretrain-tiny.yaml\nstages: {{look: {{kind: evaluate, tasks: {{fidelity: {{data: {words}}}}}}}}}\n"
    )
    with pytest.raises(ValueError, match=r"stages.look.tasks.fidelity compares with a teacher, and this run has none"):
        api.pretrain(recipe=path, data=speech_folder, out=tmp_path / "s", device="cpu", overrides=FAST, long=True)
