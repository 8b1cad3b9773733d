"""Every kind of source is recognised, and a wrong one says what to do."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import DataConfig, Recording, open_source, read_audio, scan
from sottovoce.data.durations import timed


def tone(path: Path, seconds: float = 3.0, rate: int = 16_000, channels: int = 1, hertz: float = 440.0, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave] * channels, 1), rate, **options)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("b/two.flac", "a/one.wav", "three.WAV"):
        tone(tmp_path / "audio" / name, format="FLAC" if name.endswith("flac") else "WAV")
    return tmp_path / "audio"


def test_folder_is_searched_in_order(corpus: Path) -> None:
    (corpus / "notes.txt").write_text("not audio")
    (corpus / "._one.wav").write_text("left by a Mac")
    (corpus / "folder.wav").mkdir()
    (corpus / "a" / "loop").symlink_to(corpus, target_is_directory=True)
    assert [item.id for item in open_source(corpus)] == ["a/one.wav", "b/two.flac", "three.WAV"]
    assert open_source(str(corpus)) == open_source(corpus)


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_table(corpus: Path, separator: str) -> None:
    rows = [
        ["Path", "seconds", "speaker", "text"],
        ["a/one.wav", "3.0", "anna", "she said hello"],
        ["b/two.flac", "", "ben", "x"],
    ]
    manifest = corpus / ("list.tsv" if separator == "\t" else "list.csv")
    manifest.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows), encoding="utf-8")
    one, two = open_source(manifest)
    assert (one.id, one.path, one.duration) == ("a/one.wav", str(corpus / "a/one.wav"), 3.0)
    assert two.duration is None
    assert dict(one.fields) == {"speaker": "anna", "text": "she said hello"}


def test_a_lone_quote_does_not_swallow_rows(corpus: Path) -> None:
    (corpus / "list.tsv").write_text('path\ttext\na/one.wav\t"oh\nb/two.flac\tyes\n')
    assert [item.fields["text"] for item in open_source(corpus / "list.tsv")] == ['"oh', "yes"]


def test_quoted_csv(corpus: Path) -> None:
    (corpus / "list.csv").write_text('text,path\n"one, ""two""\nthree",a/one.wav\n')
    (item,) = open_source(corpus / "list.csv")
    assert item.fields["text"] == 'one, "two"\nthree'


@pytest.mark.parametrize("place", ["audio", "audio/a", "."])
def test_relative_paths_from_the_folder_the_folder_above_or_clips(corpus: Path, place: str) -> None:
    name = "audio/a/one.wav" if place == "." else "a/one.wav"
    if place == ".":
        (corpus.parent / "audio").rename(corpus.parent / "clips")
        name = "a/one.wav"
    manifest = corpus.parent / place / "list.tsv"
    manifest.write_text(f"path\n{name}\n")
    (item,) = open_source(manifest)
    assert Path(item.path).is_file()
    assert item.id == name


def test_fairseq_counts_frames_at_the_rate_of_the_files(tmp_path: Path) -> None:
    tone(tmp_path / "data" / "x.wav", seconds=2, rate=8_000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path / 'data'}\nx.wav\t16000\nbroken row\n")
    found = open_source(tmp_path / "train.tsv")
    assert [(item.id, item.duration) for item in timed(found)] == [("x.wav", 2.0)]
    assert len(found.skipped) == 1
    (tmp_path / "train.tsv").write_text("/no/such/folder\nx.wav\t16000\n")
    with pytest.raises(ValueError, match="/no/such/folder, which does not exist"):
        open_source(tmp_path / "train.tsv")


@pytest.mark.parametrize("zipped", [False, True])
def test_nemo_json_lines(corpus: Path, zipped: bool) -> None:
    rows = [
        {"audio_filepath": "a/one.wav", "duration": 1.0, "offset": 1.5, "text": "hello", "extra": {"a": 1}},
        {"path": str(corpus / "b/two.flac")},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n{cut sho"
    manifest = corpus / ("list.jsonl.gz" if zipped else "list.json")
    manifest.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    found = open_source(manifest)
    assert [(item.start, item.duration) for item in found] == [(1.5, 1.0), (0.0, None)]
    assert found[0].fields == {"text": "hello", "extra": '{"a": 1}'}
    assert [row["path"] for row in found.skipped] == [f"{manifest}:3"]
    assert len(read_audio(found[0])) == 16_000


def test_pieces_of_one_file_are_held_out_together(corpus: Path) -> None:
    rows = "".join(json.dumps({"path": "a/one.wav", "offset": n, "duration": 1}) + "\n" for n in range(3))
    (corpus / "list.jsonl").write_text(rows)
    found = open_source(corpus / "list.jsonl")
    assert len({item.id for item in found}) == 3
    assert {item.group for item in found} == {"a/one.wav"}


def test_malformed_rows_are_counted_not_fatal(corpus: Path) -> None:
    (corpus / "list.tsv").write_text(
        "path\tduration\na/one.wav\t3\nb/two.flac\n\t3\nb/two.flac\tlong\nb/two.flac\t-1\nb/two.flac\tinf\n"
    )
    found = open_source(corpus / "list.tsv")
    assert [item.id for item in found] == ["a/one.wav"]
    assert len(found.skipped) == 5
    assert len(scan(found, DataConfig()).skipped) == 5


def test_list_single_file_and_several_sources(corpus: Path) -> None:
    (corpus / "list.txt").write_text("a/one.wav\n\nb/two.flac\n")
    assert [item.id for item in open_source(corpus / "list.txt")] == ["a/one.wav", "b/two.flac"]
    assert [item.id for item in open_source(corpus / "three.WAV")] == ["three.WAV"]
    own = Recording("mine", str(corpus / "three.WAV"))
    found = open_source([corpus, corpus / "list.txt", own])
    assert [item.id for item in found] == ["a/one.wav", "b/two.flac", "three.WAV", "mine"]
    assert [row["reason"] for row in found.skipped] == ["duplicate recording"] * 2


def cut(identity: str, path: Path, start: float, duration: float, **changes: object) -> dict[str, object]:
    recording = {
        "id": f"rec-{path.stem}",
        "sources": [{"type": "file", "channels": [0, 1], "source": str(path)}],
        "sampling_rate": 16_000,
        "num_samples": 48_000,
        "duration": 3.0,
        "channel_ids": [0, 1],
    }
    speech = [{"id": "s", "recording_id": "r", "start": 0, "duration": duration, "channel": 0, "text": "hi", "speaker": "ann"}]
    made = {"id": identity, "start": start, "duration": duration, "channel": 1, "supervisions": speech, "recording": recording}
    return {**made, "type": "MonoCut", **changes}


def two_channels(path: Path) -> Path:
    left = np.full(48_000, 0.1)
    soundfile.write(path, np.stack([left, np.linspace(0.2, 0.8, 48_000)], 1), 16_000, subtype="FLOAT")
    return path


def test_simple_lhotse_cuts_need_no_lhotse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    rows = [cut("one", two_channels(tmp_path / "x.wav"), 1.0, 1.5), {"type": "MonoCut", "broken": True}]
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = open_source(tmp_path / "cuts.jsonl.gz")
    assert (found[0].group, found[0].fields) == ("rec-x", {"speaker": "ann", "text": "hi"})
    wave = read_audio(found[0])
    assert len(wave) == 24_000
    assert wave[0] == pytest.approx(0.4, abs=1e-3)
    assert len(found.skipped) == 1


def test_other_lhotse_cuts_go_through_lhotse(tmp_path: Path) -> None:
    pytest.importorskip("lhotse", reason="lhotse, or a package that it imports, is missing")
    audio = two_channels(tmp_path / "x.wav")
    mixed = {"id": "mix", "type": "MixedCut", "tracks": [{"cut": cut("one", audio, 1.0, 1.5), "type": "MonoCut", "offset": 0.0}]}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(mixed) + "\n" + json.dumps(cut("plain", audio, 0, 2)))
    one, two = open_source(tmp_path / "cuts.jsonl")
    assert (one.duration, one.loader is not None, two.loader) == (1.5, True, None)
    wave = read_audio(one, 0.5, 0.5)
    assert len(wave) == 8_000
    assert wave[0] == pytest.approx(0.5, abs=1e-3)


def test_other_lhotse_cuts_without_lhotse_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    (tmp_path / "cuts.jsonl").write_text(json.dumps({"id": "mix", "type": "MixedCut", "tracks": []}))
    with pytest.raises(ValueError, match="install lhotse"):
        open_source(tmp_path / "cuts.jsonl")


def test_shar_shards(tmp_path: Path) -> None:
    """Laid out as lhotse's SharWriter does: audio then JSON for every cut."""
    import io
    import tarfile

    rows = []
    with tarfile.open(tmp_path / "recording.000000.tar", "w") as tar:
        for name, seconds in (("u1", 3), ("u2", 2)):
            audio = tone(tmp_path / "tmp.flac", seconds)
            tar.add(audio, f"{name}.flac")
            audio.unlink()
            tar.addfile(tarfile.TarInfo(f"{name}.json"), io.BytesIO())
            recording = {"id": f"rec-{name}", "sources": [{"type": "shar", "channels": [0], "source": ""}]}
            rows.append(
                {"id": name, "start": 0, "duration": float(seconds), "channel": 0, "recording": recording, "type": "MonoCut"}
            )
    rows.append({**rows[0], "id": "lost"})
    (tmp_path / "cuts.000000.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = open_source(tmp_path)
    assert [(item.id, item.duration, item.group) for item in found] == [("u1", 3.0, "rec-u1"), ("u2", 2.0, "rec-u2")]
    assert len(read_audio(found[1])) == 32_000
    assert len(read_audio(found[0], 1.0, 0.5)) == 8_000
    assert [row["reason"] for row in found.skipped] == ["missing"]
    (tmp_path / "recording.000000.tar").unlink()
    with pytest.raises(ValueError, match=r"no recording\.000000\.tar"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.tsv", b"", "is empty"),
        ("list.tsv", b"sound\tlength\nx.wav\t3\n", "no 'path' column; its first line reads: sound, length"),
        ("list.csv", b"path,seconds\n", "no usable rows"),
        ("list.csv", b"path,seconds\nx.wav\n", "1 malformed"),
        ("list.tsv", b"path\n\xff\xfe\xfa", "UTF-8"),
        ("list.jsonl", b"hello\nyou\n", "no JSON objects"),
        ("list.jsonl", b'{"name": "x", "size": 1}\n', "neither 'audio_filepath' nor 'path'.*name, size"),
        ("list.jsonl.gz", b"not gzip", "cannot read"),
        ("list.txt", b"\n", "no usable rows"),
        ("speech.docx", b"?", "an unknown kind"),
    ],
)
def test_wrong_manifests_say_what_was_found(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_wrong_sources_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; give a folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no audio files"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="remote"):
        open_source("s3://bucket/speech")
    with pytest.raises(ValueError, match="no data given"):
        open_source([])
