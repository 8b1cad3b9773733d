"""Lengths of recordings whose source does not say; where caches lie; choices by a hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.core.cache import cache_home
from sottovoce.data import Recording, Recordings
from sottovoce.data import durations as module
from sottovoce.data.draw import digest, draw
from sottovoce.data.durations import present, timed


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened."""
    names: list[str] = []
    real = module.header_seconds
    monkeypatch.setattr(module, "header_seconds", lambda path: (names.append(Path(path).name), real(path))[1])
    return names


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    for name, seconds in (("a", 2.0), ("b", 3.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(round(seconds * 16_000), 0.1), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    (tmp_path / "empty.wav").write_bytes(b"")

    def item(name: str, **others: object) -> Recording:
        return Recording(name, str(tmp_path / f"{name}.wav"), **others)  # type: ignore[arg-type]

    loaded = Recording("loaded", "shard.tar/loaded", loader=lambda start, seconds: (np.zeros((1, 1), np.float32), 16_000))
    known = item("a", duration=1.5)
    return Recordings([item("a"), item("b", start=1.0), item("b", start=9.0), known, item("broken"), item("empty"), loaded])


def test_headers_say_how_long_and_what_is_broken_is_listed(recordings: Recordings) -> None:
    found = timed(recordings)
    assert [(item.id, item.start, item.duration) for item in found] == [
        ("a", 0, 2.0), ("b", 1, 2.0), ("a", 0, 1.5), ("loaded", 0, None)
    ]  # fmt: skip
    reasons = ["starts after the end of its file", "not audio, or broken", "empty file"]
    assert [row["reason"] for row in found.skipped] == reasons
    assert recordings.skipped == []


def test_the_second_time_nothing_good_is_opened(recordings: Recordings, tmp_path: Path, opened: list[str]) -> None:
    kept = tmp_path / "cache" / "lengths"
    progress: list[tuple[int, int]] = []
    first = timed(recordings, kept, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (4, 4)
    assert sorted(opened) == ["a.wav", "b.wav", "broken.wav", "empty.wav"]
    opened.clear()
    assert timed(recordings, kept) == first
    assert sorted(opened) == ["broken.wav", "empty.wav"]
    opened.clear()
    soundfile.write(tmp_path / "a.wav", np.full(64_000, 0.1), 16_000)
    assert timed(recordings, kept)[0].duration == 4.0
    assert "a.wav" in opened


def test_a_cache_that_cannot_be_used_is_no_error(recordings: Recordings, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"no data base")
    (tmp_path / "file").write_text("")
    for kept in (tmp_path / "damaged", tmp_path / "file" / "lengths"):
        assert timed(recordings, kept)[0].duration == 2.0


def test_files_that_are_not_there_are_left_out_unopened(recordings: Recordings, tmp_path: Path, opened: list[str]) -> None:
    os.remove(tmp_path / "b.wav")
    found = present(recordings)
    assert len(found) == 5
    assert [row["reason"] for row in found.skipped] == ["missing"] * 2
    assert not opened


def test_one_setting_says_where_everything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from sottovoce.evaluation.features.store import FeatureStore

    for name in ("SOTTOVOCE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_home() == Path.home() / ".cache" / "sottovoce"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_home() == Path("/x/sottovoce")
    monkeypatch.setenv("SOTTOVOCE_CACHE", "~/y")
    assert cache_home() == Path.home() / "y"
    assert FeatureStore().folder == Path.home() / "y" / "features"


def test_choices_are_those_of_before() -> None:
    """Held-out parts and splits of earlier runs rest on these very numbers."""
    assert draw("1272-128104-0000.opus") == 0.12818016012129974
    assert digest("a", 8) == hashlib.blake2b(b"a", digest_size=8).digest()
    assert digest("\udcff") != digest("?")
