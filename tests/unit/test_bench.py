"""What `sottovoce bench` says of times, and that models in processes of their own give it some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from sottovoce import cli
from sottovoce.encoder import Encoder
from sottovoce.hub.student import save_student
from sottovoce.reporting.check import problems
from sottovoce.timing import measure, runtimes, table
from sottovoce.timing.rounds import in_turns, interval, median, percentile
from sottovoce.timing.runtimes import RUNTIMES, Unavailable
from sottovoce.timing.worker import Worker
from tests.conftest import tiny_shape


@pytest.fixture
def student_folder(tmp_path: Path) -> Path:
    save_student(tmp_path / "student", Encoder(tiny_shape(2)).reset_parameters(), normalize=False, teacher="nobody")
    return tmp_path / "student"


def test_percentiles_and_intervals() -> None:
    assert median([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert percentile([float(i) for i in range(101)], 0.95) == pytest.approx(95.0)
    assert percentile([4.0], 0.95) == 4.0
    assert interval([2.0, 1.0]) == (1.0, 2.0)
    assert interval([float(i) for i in range(6)]) == (0.0, 5.0)  # misses the median once in 32
    assert interval([float(i) for i in range(9)]) == (1.0, 7.0)  # (1 + 9) / 2^8 = 0.039 outside
    assert interval([float(i) for i in range(12)]) == (2.0, 9.0)


def test_turns_are_interleaved_and_the_order_moves_on() -> None:
    said: list[tuple[str, int]] = []

    def timed(name: str) -> measure.Timed:
        return lambda calls: said.append((name, calls)) or [1.0] * calls  # type: ignore[func-returns-value]

    times = in_turns({"slow": timed("slow"), "fast": timed("fast")}, {"slow": 5.0, "fast": 0.05}, rounds=3)
    assert said == [("slow", 1), ("fast", 4), ("fast", 4), ("slow", 1), ("slow", 1), ("fast", 4)]
    assert times == {"slow": [[1.0]] * 3, "fast": [[1.0] * 4] * 3}


def test_a_row_compares_round_by_round() -> None:
    ours, theirs = [[0.1], [0.2], [0.1]], [[0.2], [0.8], [0.3]]
    row = measure.row(("models/small", "torch"), 2, 5.0, ours, 12.0, theirs)
    assert row["speedup"] == pytest.approx({"value": 3.0, "low": 2.0, "high": 4.0})
    assert row["median_ms"] == pytest.approx(100.0)
    assert row["real_time_factor"] == pytest.approx(0.01)
    assert row["audio_s_per_s"] == pytest.approx(100.0)
    assert row["rounds_ms"] == pytest.approx([100.0, 200.0, 100.0])


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="did you mean 'transformers'"):
        measure.bench(["demo"], runtimes=["transformer"])
    with pytest.raises(ValueError, match="name a model"):
        measure.bench([])
    with pytest.raises(ValueError, match="above 0"):
        measure.bench(["demo"], seconds=[0.0])
    with pytest.raises(ValueError, match="two models would be called 'a/b'"):
        measure.distinct(["a/b", "a/b/"])
    with pytest.raises(ValueError, match="nowhere"):
        measure.bench(["./nowhere"])


def test_a_student_has_no_class_in_transformers(student_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no class of transformers"):
        RUNTIMES["transformers"].prepare(str(student_folder), tmp_path)
    wave = torch.randn(1, 4000).numpy()
    run = RUNTIMES["transformers"].open(RUNTIMES["transformers"].prepare(str(teacher_folder), tmp_path), 1)
    ours = RUNTIMES["torch"].open(str(teacher_folder), 1)
    assert torch.allclose(run(wave).last, ours(wave).last, atol=1e-4)  # type: ignore[attr-defined]


def test_an_exported_file_of_an_earlier_model_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtimes, "_export", lambda source, scratch: scratch / "model.onnx")
    for name in ("model.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    for age, file in ((10, tmp_path / "new" / "model.onnx"), (-10, tmp_path / "model.onnx")):
        os.utime(tmp_path / "model.onnx", (1_000_000 - age, 1_000_000 - age))
        os.utime(tmp_path / "model.safetensors", (1_000_000, 1_000_000))
        assert runtimes.exported(str(tmp_path), tmp_path / "new") == str(file)


def test_the_peak_of_memory_is_seen() -> None:
    """In a process of its own: one that has given memory back to itself needs no more for another 100 MB."""
    code = (
        "from sottovoce.timing.worker import forget_peak, peak_mb\n"
        "forget_peak(); before = peak_mb(); block = bytearray(100_000_000); print(peak_mb() - before)"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 80 < float(output) < 200


def test_models_are_measured_beside_each_other(
    student_folder: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    record = measure.bench(
        [str(student_folder)],
        vs=str(teacher_folder),
        runtimes=["torch"],
        seconds=[0.2, 0.1],
        batches=[1],
        rounds=2,
        threads=1,
        say=said.append,
    )
    schema = json.loads((resources.files("sottovoce.reporting") / "schema" / "result.schema.json").read_text(encoding="utf-8"))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(record)] == []
    assert problems(record) == []
    json.dumps(record)
    assert record["machine"]["threads"] == 1
    assert record["machine"]["instruction_set"]
    assert set(record["machine"]["float32_gflops"]) == {"1", str(record["machine"]["cores"])}
    assert all(value > 1 for value in record["machine"]["float32_gflops"].values())
    assert [(row["model"], row["seconds"]) for row in record["rows"]] == [
        (name, seconds) for seconds in (0.1, 0.2) for name in (teacher_folder.name, "student")
    ]
    assert all(row["median_ms"] > 0 and row["peak_mb"] > 50 for row in record["rows"])
    assert record["rows"][0]["speedup"] is None
    assert record["rows"][1]["speedup"]["low"] <= record["rows"][1]["speedup"]["high"]
    assert record["models"][1]["params"] < record["models"][0]["params"]
    table.show(record)
    assert "speed-up" in capsys.readouterr().out


def test_a_model_that_cannot_be_opened_says_why() -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        Worker("torch", "./nowhere", 1)


def test_the_command_knows_what_a_fit_takes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sottovoce", "bench", "demo", "--fit-cost"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "times parts, not models" in capsys.readouterr().err
    assert "sottovoce bench students/first --vs demo" in CliRunner().invoke(cli.app, ["bench", "--help"]).stdout
