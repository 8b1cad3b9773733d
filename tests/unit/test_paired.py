"""benchmarks/paired.py: two models on the same recordings."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

SPEC = spec_from_file_location("paired", Path(__file__).parents[2] / "benchmarks" / "paired.py")
assert SPEC is not None
assert SPEC.loader is not None
benchmark = module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)
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


def paired(one: str, other: str, task_file: Path, task: str = "words") -> Any:
    folder = task_file.parent
    where = {"--data": task_file, "--root": folder, "--cache": folder / "cache", "--out": folder / "out.json", "--task": task}
    benchmark.main([one, other, "--seeds", "1", "2", *(str(word) for pair in where.items() for word in pair)])
    return json.loads((folder / "out.json").read_text())["tasks"][task]["accuracy"]


def test_what_one_gains_the_other_loses(task_file: Path) -> None:
    there, back = paired("log-mel", "fbank", task_file), paired("fbank", "log-mel", task_file)
    own = [there["models"][name]["value"] for name in ("log-mel", "fbank")]
    assert there["better"]["value"] == pytest.approx(own[0] - own[1], abs=1e-3)
    assert (there["better"]["low"], there["better"]["high"]) == (-back["better"]["high"], -back["better"]["low"])


def test_a_model_is_no_better_than_itself(task_file: Path, teacher_folder: Path) -> None:
    found = paired(str(teacher_folder), str(teacher_folder), task_file)
    assert found["better"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("task", ["near", "same"])
def test_tasks_without_answers_to_single_recordings_are_refused(
    task: str, task_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        paired("log-mel", "fbank", task_file, task)
    assert f"{task} has no probe whose answers" in capsys.readouterr().err
