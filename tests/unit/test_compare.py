"""`sottovoce compare`: two models on the same recordings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sottovoce
from sottovoce.cli import app
from sottovoce.core import ledger
from sottovoce.evaluation.statistics.bootstrap import resampled
from sottovoce.evaluation.suite.compare import _p_value, compare, holm
from sottovoce.reporting.check import problems

TRAINING = "{lrs: [0.01], steps: 20, batch: 4, evaluate_every: 10, standardize: true}"


@pytest.fixture
def task_file(speech_folder: Path, tmp_path: Path) -> Path:
    rows = [
        f"{file}\tword{i % 2}\t{('train', 'train', 'dev', 'test')[i // 2 % 4]}"
        for i, file in enumerate(sorted(speech_folder.glob("*.wav")))
    ]
    (tmp_path / "manifest.tsv").write_text("\n".join(["path\tlabel\tsplit", *rows]) + "\n")
    (tmp_path / "tasks.yaml").write_text(
        f"tasks:\n  words: {{task: {{name: ks, training: {TRAINING}}}, data: manifest.tsv}}\n"
        "  near: {task: fidelity, data: manifest.tsv}\n  same: {task: asv, data: manifest.tsv}\n"
    )
    return tmp_path / "tasks.yaml"


def compared(one: str, other: str, task_file: Path, **options: Any) -> dict[str, Any]:
    where = {"data": task_file, "out": task_file.parent / "out", "cache": task_file.parent / "cache", "seeds": [1, 2]}
    return compare(one, other, **{**where, **options})


def test_what_one_gains_the_other_loses(task_file: Path) -> None:
    said: list[str] = []
    record = compared("log-mel", "fbank", task_file, say=said.append)
    there = record["tasks"]["words"]["measures"]["accuracy"]
    back = compared("fbank", "log-mel", task_file, tasks=["words"])["tasks"]["words"]["measures"]["accuracy"]
    own = [there["models"][name]["value"] for name in ("log-mel", "fbank")]
    assert there["better"]["value"] == pytest.approx(own[0] - own[1], abs=1e-3)
    assert (there["better"]["low"], there["better"]["high"]) == (-back["better"]["high"], -back["better"]["low"])
    assert there["p"] == back["p"] == there["p_holm"]  # of a single task there is nothing to correct
    assert said[0] == "left out, because their scores are not of single recordings: near, same"
    assert problems(record) == []
    assert ledger.read_all(task_file.parent / "out" / "records.jsonl")[0] == record
    assert sottovoce.compare is compare


def test_a_model_is_no_better_than_its_copy(task_file: Path, teacher_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher_folder, tmp_path / "copy")
    found = compared(str(teacher_folder), str(tmp_path / "copy"), task_file, out=None)["tasks"]["words"]["measures"]["accuracy"]
    assert found["better"] == {"value": 0, "low": 0, "high": 0}
    assert found["p"] == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="named twice"):
        compared("log-mel", "log-mel", task_file)
    with pytest.raises(ValueError, match="only --task quality-score does"):
        compared("log-mel", "fbank", task_file, vs="untrained:demo")


@pytest.mark.parametrize("task", ["near", "same"])
def test_tasks_without_answers_to_single_recordings_are_refused(task: str, task_file: Path) -> None:
    with pytest.raises(ValueError, match=f"{task}: no scores of single recordings to compare"):
        compared("log-mel", "fbank", task_file, tasks=[task])


def test_the_command_prints_a_table_or_the_record(task_file: Path) -> None:
    folder = task_file.parent
    where = [
        "--data",
        str(task_file),
        "--task",
        "words",
        "--out",
        str(folder / "out"),
        "--cache",
        str(folder / "cache"),
        "--seed",
        "1",
    ]
    shown = CliRunner().invoke(app, ["compare", "log-mel", "fbank", *where])
    assert shown.exit_code == 0
    assert "better by" in shown.output
    printed = CliRunner().invoke(app, ["compare", "log-mel", "fbank", "--json", *where])
    assert json.loads(printed.stdout)["tasks"]["words"]["task"]["version"] == 2
    assert isinstance(CliRunner().invoke(app, ["compare", "log-mel", *where]).exception, ValueError)


def test_p_values_are_corrected_for_their_number() -> None:
    """By hand: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and none below the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_is_found_where_there_is_one_and_not_where_there_is_none() -> None:
    """Twenty speakers with an effect each: a constant gain is found, noise of the same size around zero is not."""
    draw = np.random.default_rng(0)
    groups = [f"s{i // 10}" for i in range(200)]
    noise = np.repeat(draw.normal(size=20), 10)
    found = [
        _p_value(resampled(column[:, None], lambda rows: float(rows.mean()), groups))
        for column in (noise + 1.5, noise - noise.mean())
    ]
    assert found[0] < 0.01
    assert found[1] > 0.5
