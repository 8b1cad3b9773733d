"""The demo speech: many languages, disjoint speakers, the same for the same seed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import DataConfig, demo, open_data, open_source
from sottovoce.data.demo import PHRASES, SENTENCES, make_demo, make_search
from sottovoce.data.demo_words import WORDS

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeak-ng is not installed (pip install 'sottovoce[demo]')"
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo"), minutes=4.5)


@needs_espeak
def test_demo_is_multilingual_with_disjoint_speakers(manifest: Path) -> None:
    found = open_source(manifest)
    assert len({item.fields["language"] for item in found}) == len(WORDS) >= 6
    speakers = {split: {r.fields["speaker"] for r in found if r.fields["split"] == split} for split in ("train", "dev", "test")}
    assert all(speakers.values())
    assert not speakers["train"] & speakers["test"]
    assert not speakers["train"] & speakers["dev"]
    assert 4.5 * 60 <= sum(item.duration or 0 for item in found) < 4.5 * 60 + 16
    for item in found:
        assert item.fields["text"]
        audio, rate = soundfile.read(item.path)
        assert rate == 16_000
        assert len(audio) / rate == pytest.approx(item.duration, abs=1e-3)
        assert 2 < len(audio) / rate < 15.6
        assert 0.1 < np.abs(audio).max() < 1


@needs_espeak
def test_demo_is_the_same_for_a_seed(tmp_path: Path) -> None:
    def content(name: str, seed: int) -> dict[str, bytes]:
        folder = make_demo(tmp_path / name, minutes=0.2, seed=seed).parent
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    one = content("one", 1)
    assert one == content("two", 1)
    assert one != content("three", 2)


@needs_espeak
def test_demo_source_is_made_once_and_trains_on_its_train_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "make_demo", lambda folder: make_demo(folder, minutes=2.5))
    found = open_source("demo")
    monkeypatch.setattr(demo, "make_demo", None)  # a second call must not need it
    assert open_source("demo") == found
    assert [path.name for path in (tmp_path / "sottovoce").iterdir()] == [f"demo-{demo.VERSION}"]
    data = open_data("demo", DataConfig(workers=0, seconds_per_batch=20))
    assert data.splits == ("train",)
    assert next(data.train).seconds > 5


@needs_espeak
def test_the_search_asks_in_one_voice_for_what_others_say(tmp_path: Path) -> None:
    found = open_source(make_search(tmp_path))
    queries, documents = ([item for item in found if item.fields["role"] == role] for role in ("query", "doc"))
    assert (len(queries), len(documents)) == (PHRASES, SENTENCES)
    assert not {item.fields["speaker"] for item in queries} & {item.fields["speaker"] for item in documents}
    for query in queries:
        holds = [item for item in documents if Path(query.path).name in json.loads(item.fields["matches"])]
        assert len(holds) == SENTENCES // PHRASES
        assert all(query.fields["text"] in item.fields["text"] for item in holds)
        audio, _ = soundfile.read(query.path)
        assert 0.4 < len(audio) / 16_000 < 3


def test_without_espeak_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r'pip install "sottovoce\[demo\]"'):
        open_source("demo")
    assert not list((tmp_path / "sottovoce").iterdir()), "nothing half made may stay in the cache"


def test_minutes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="minutes"):
        make_demo(tmp_path, minutes=0)
