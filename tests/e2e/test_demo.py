"""The built-in teacher, and `sottovoce demo` from start to table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import HubertModel
from typer.testing import CliRunner

from sottovoce.cli import app
from sottovoce.data import DataConfig, open_data
from sottovoce.hub.pretrained import SHIPPED, load_pretrained


def test_the_teacher_is_small_enough_to_ship_and_loads_in_transformers() -> None:
    assert sum(path.stat().st_size for path in SHIPPED["demo"].iterdir()) < 12e6
    teacher = load_pretrained("demo")
    wave = torch.randn(1, 16_000)
    theirs = HubertModel.from_pretrained(SHIPPED["demo"], dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(teacher.encoder(wave).last, theirs(wave).last_hidden_state, rtol=1e-4, atol=1e-4)
    assert teacher.shape.dim == 256
    assert len(teacher.shape.layers) == 8


def test_its_card_says_what_it_was_trained_on() -> None:
    card = (SHIPPED["demo"] / "README.md").read_text(encoding="utf-8")
    for corpus in ("LibriSpeech", "speechocean762", "Arabic Speech Commands", "Whisper", "CAM++"):
        assert corpus in card
    for licence in ("CC BY", "MIT", "Apache-2.0"):
        assert licence in card


def test_demo_prints_the_table(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "140"}
    command = [sys.executable, "-m", "sottovoce", "demo", "--out", str(tmp_path / "s"), "--steps", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170)
    assert done.returncode == 0, done.stderr
    for row in ("teacher", "student", "before last stage", "untrained"):
        assert row in done.stdout
    assert "a spoken phrase, found in noise, by sound alone" in done.stdout
    record = json.loads((tmp_path / "s/run/demo.json").read_text())
    search, models = record["search"], record["models"]
    assert (search["phrases"], search["sentences"], search["chance"]) == (8, 24, 1.0)
    assert search["found"]["teacher"] >= 7
    assert search["found"]["teacher"] > search["found"]["untrained"]
    assert models["student"]["macs_per_s"] == pytest.approx(0.25 * models["teacher"]["macs_per_s"], rel=0.01)
    assert models["teacher"]["fidelity"]["mean"]["cosine"] == pytest.approx(1.0, abs=1e-4)


def test_recordings_are_scored_without_naming_a_model(tmp_path: Path) -> None:
    """The built-in quality model tells speech from the same speech in noise."""
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("espeakng_loader")
    data = open_data("demo", DataConfig(seconds_per_batch=20, crop="none", valid_share=0.5), seed=1)
    torch.manual_seed(0)
    waves = [batch.wave[0] for batch in data.valid[:4]]
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / f"clean{number}.wav", wave.numpy(), 16_000)
        soundfile.write(tmp_path / f"noisy{number}.wav", (wave + 0.1 * torch.randn(len(wave))).clamp(-1, 1).numpy(), 16_000)
    files = sorted(map(str, tmp_path.glob("*.wav")))
    done = CliRunner().invoke(app, ["evaluate", *files, "--task", "quality-score", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert result["model"]["name"] == "demo-quality"
    assert result["details"]["rater"]["params"] < 1e6
    scores = {Path(name).stem: score[0] for name, score in result["details"]["recordings"].items()}
    assert all(scores[f"clean{i}"] > scores[f"noisy{i}"] + 0.2 for i in range(len(waves)))


def test_the_quality_model_says_what_it_was_trained_on() -> None:
    folder = SHIPPED["demo-quality"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("Distill-MOS", "LibriSpeech", "speechocean762", "ESC-10", "CC BY", "MIT"):
        assert word in card
