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

from sottovoce.hub.pretrained import DEMO, load_pretrained


def test_the_teacher_is_small_enough_to_ship_and_loads_in_transformers() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 12e6
    teacher = load_pretrained("demo")
    wave = torch.randn(1, 16_000)
    theirs = HubertModel.from_pretrained(DEMO, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(teacher.encoder(wave).last, theirs(wave).last_hidden_state, rtol=1e-4, atol=1e-4)
    assert teacher.shape.dim == 192
    assert len(teacher.shape.layers) == 12


def test_its_card_says_what_it_was_trained_on() -> None:
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    for corpus in ("LibriSpeech", "speechocean762", "Arabic Speech Commands", "Free Spoken Digit"):
        assert corpus in card
    assert "CC BY" in card


def test_demo_prints_the_table(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "140"}
    command = [sys.executable, "-m", "sottovoce.cli", "demo", "--out", str(tmp_path / "s"), "--steps", "4"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170)
    assert done.returncode == 0, done.stderr
    for row in ("teacher", "student", "before last stage", "untrained"):
        assert row in done.stdout
    assert "a spoken phrase, found by sound alone" in done.stdout
    record = json.loads((tmp_path / "s/run/demo.json").read_text())
    search, models = record["search"], record["models"]
    assert (search["phrases"], search["sentences"], search["chance"]) == (8, 24, 1.0)
    assert search["found"]["teacher"] >= 7
    assert search["found"]["teacher"] > search["found"]["untrained"]
    assert models["student"]["macs_per_s"] == pytest.approx(0.25 * models["teacher"]["macs_per_s"], rel=0.01)
    assert models["teacher"]["fidelity"]["mean"]["cosine"] == pytest.approx(1.0, abs=1e-4)
