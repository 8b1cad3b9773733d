"""A phrase is found in the sentence that contains it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.encoder import Encoder
from sottovoce.train import phrase_search
from tests.conftest import tiny_shape


def glide(low: float, high: float, seconds: float = 0.5) -> np.ndarray:
    t = np.arange(int(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * (low + (high - low) * t / seconds / 2) * t)).astype(np.float32)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two phrases, up and down, and four sentences; the first and the third contain them."""
    up, down, noise = glide(300, 2_000), glide(3_000, 200), np.random.default_rng(1)
    hiss = [0.05 * noise.standard_normal(8_000).astype(np.float32) for _ in range(8)]
    waves = {
        "q0": up, "q1": down, "d0": np.concatenate([hiss[0], up, hiss[1]]), "d1": np.concatenate(hiss[2:4]),
        "d2": np.concatenate([hiss[4], down, hiss[5]]), "d3": np.concatenate(hiss[6:8]),
    }  # fmt: skip
    rows = ["path\tseconds\ttext\trole\tmatches"]
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.flac", wave, 16_000)
        matches = json.dumps({"d0": ["q0.flac"], "d2": ["q1.flac"]}.get(name, []))
        role = "query" if name.startswith("q") else "doc"
        rows.append(f"{name}.flac\t{len(wave) / 16_000}\tsays {name}\t{role}\t{matches}")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "manifest.tsv"


def test_the_sentence_with_the_same_sound_is_found_and_counted(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    deaf = Encoder(tiny_shape()).eval()
    for weight in deaf.parameters():
        torch.nn.init.zeros_(weight)
    result = phrase_search.search({"student": encoder, "deaf": deaf}, True, manifest, snr_db=40.0)
    assert result.phrases == ("says q0", "says q1")
    assert result.found["student"].best == ("says d0", "says d2")
    assert result.found["student"].right == (True, True)
    assert result.found["deaf"].best[0] == result.found["deaf"].best[1]  # all sentences are alike to it
    assert 0 <= result.layer <= len(encoder.layers)  # the first in which the first model finds both
    assert phrase_search.record(result) == {
        "phrases": 2,
        "sentences": 4,
        "snr_db": 40.0,
        "layer": result.layer,
        "chance": 0.5,
        "found": {"student": 2, "deaf": 1},
    }
    phrase_search.show(result)
    printed = capsys.readouterr().out
    assert "says d0" in printed
    assert "student 2, deaf 1" in printed
