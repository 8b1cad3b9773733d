"""A folder of fifty broken files of every kind: the run goes through, and each is listed with a reason."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import DataConfig, open_data


def encoded(kind: str, subtype: str | None = None, rate: int = 16_000, seconds: float = 1.5) -> bytes:
    wave = (0.1 * np.random.default_rng(0).standard_normal(int(rate * seconds))).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def values(wave: np.ndarray, subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.astype(np.float32), 16_000, format="WAV", subtype=subtype)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.wav", encoded("WAV"))
    return buffer.getvalue()


def broken() -> dict[str, bytes]:
    """Name -> bytes of fifty files that hold no usable speech."""
    random = np.random.default_rng(1)
    files: dict[str, bytes] = {}
    sound = {"wav": encoded("WAV"), "flac": encoded("FLAC"), "ogg": encoded("OGG", "VORBIS"), "opus": encoded("OGG", "OPUS"),
             "mp3": encoded("MP3")}  # fmt: skip
    for kind, data in sound.items():
        files[f"empty.{kind}"] = b""
        files[f"one-byte.{kind}"] = data[:1]
        files[f"header-only.{kind}"] = data[:44]
        files[f"text.{kind}"] = b"this is not audio at all, it is a letter\n" * 50
        files[f"noise.{kind}"] = random.bytes(5000)
        files[f"zeros.{kind}"] = bytes(5000)
        files[f"cut-head.{kind}"] = data[3000:] if kind != "mp3" else b"\x00" * 4 + random.bytes(900)
    short = np.full(800, 0.1)
    files |= {
        "nan.wav": values(np.full(24_000, np.nan)),
        "inf.wav": values(np.full(24_000, np.inf)),
        "one-nan.wav": values(np.r_[np.full(12_000, 0.1), np.nan, np.full(12_000, 0.1)]),
        "silent.wav": values(np.zeros(24_000)),
        "short.wav": values(short),
        "short.flac": encoded("FLAC", seconds=0.05),
        "no-samples.wav": values(np.zeros(0)),
        "zip.wav": archive(),
        "html.mp3": b"<!doctype html><html><body>404 Not Found</body></html>",
        "json.flac": b'{"error": "quota exceeded"}',
        "png.wav": b"\x89PNG\r\n\x1a\n" + random.bytes(2000),
        "riff-lie.wav": sound["wav"][:4] + b"\xff\xff\xff\x7f" + sound["wav"][8:60],
        "bad-channels.wav": sound["wav"][:22] + b"\x00\x00" + sound["wav"][24:],
        "bad-rate.wav": sound["wav"][:24] + b"\x00\x00\x00\x00" + sound["wav"][28:],
        "lfs.wav": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 48044\n",
    }
    return files


def test_none_stops_the_run_and_each_is_listed(tmp_path: Path) -> None:
    files = broken()
    assert len(files) == 50
    folder = tmp_path / "speech"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for i in range(4):
        (folder / f"good{i}.flac").write_bytes(encoded("FLAC", seconds=1.0 + 0.2 * i))
    listed = tmp_path / "skipped.jsonl"
    config = DataConfig(seconds_per_batch=4, min_seconds=0.5, max_seconds=3, workers=2, valid_share=0)
    data = open_data(folder, config, skipped_file=listed)
    for _ in range(3 * data.train.batches_per_epoch):
        batch = next(data.train)
        assert np.isfinite(batch.wave.numpy()).all()
        assert all("good" in name for name in batch.ids)
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {Path(row["path"]).name for row in rows} == set(files)
    assert all(len(row["reason"]) > 3 for row in rows)
    assert "50 skipped" in data.summary()


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b""), lambda path: path.unlink(), lambda path: path.write_bytes(b"RIFF")],
    ids=["emptied", "removed", "overwritten"],
)
def test_a_file_that_breaks_while_training_is_left_out(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(encoded("WAV"))
    data = open_data(tmp_path, DataConfig(seconds_per_batch=4, min_seconds=0.5, max_seconds=3, workers=0, valid_share=0))
    spoil(tmp_path / "2.wav")
    for _ in range(2 * data.train.batches_per_epoch):
        assert not any(name.endswith("2.wav") for name in next(data.train).ids)
    assert [os.path.basename(row["path"]) for row in data.skipped] == ["2.wav"]
