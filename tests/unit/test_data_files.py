"""Files of any name are read, none that is no file is opened, nothing of a folder is passed over in silence."""

from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.core import ledger
from sottovoce.data import DataConfig, open_data, open_source, read_audio, scan
from sottovoce.data import files as module
from sottovoce.data.durations import present, timed
from sottovoce.data.files import printable, rows
from sottovoce.evaluation.suite.pairs import list_skipped

from .test_data_sources import tone

NAMES = [
    b"caf\xe9.wav",
    b"new\nline.wav",
    b'quo\'te "s".wav',
    "日本.wav".encode(),
    b" spaces .wav",
    b"a,b;c\td.wav",
    b"-x.wav",
    b"\xff\xfe.wav",
]


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A folder of files with names of all kinds."""
    for number, name in enumerate(NAMES):
        source = tone(tmp_path / "source.wav", 1.0 + number / 10)
        (tmp_path / "audio").mkdir(exist_ok=True)
        os.rename(os.fsencode(source), os.path.join(os.fsencode(tmp_path / "audio"), name))
    return tmp_path / "audio"


def test_a_name_is_bytes(named: Path, tmp_path: Path) -> None:
    found = open_source(named)
    assert sorted(os.fsencode(os.path.basename(item.path)) for item in found) == sorted(NAMES)
    assert len(timed(found)) == len(present(found)) == len(NAMES)
    for item in found:
        assert len(read_audio(item)) >= 16_000
        assert item.id.isprintable()
        item.id.encode()
    listed = tmp_path / "run" / "skipped.jsonl"
    data = open_data(named, DataConfig(min_seconds=1.35, workers=0), skipped_file=listed)
    short = {os.fsencode(os.path.basename(json.loads(line)["path"])) for line in listed.read_text().splitlines()}
    assert short == set(NAMES[:4])
    data.summary().encode()
    list_skipped(tmp_path / "s.jsonl", "task", data.skipped)
    assert len((tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize("kind", ["jsonl", "json in bytes", "csv", "txt", "tsv"])
def test_any_name_in_a_manifest(named: Path, kind: str) -> None:
    names = NAMES
    if kind == "jsonl":
        data = "\n".join(json.dumps({"path": os.fsdecode(name)}) for name in names).encode()
    elif kind == "json in bytes":
        data = "\n".join(json.dumps({"path": os.fsdecode(name)}, ensure_ascii=False) for name in names).encode(
            "utf-8", "surrogateescape"
        )
    elif kind == "csv":
        data = b"path,label\n" + b"".join(b'"%s",x\n' % name.replace(b'"', b'""') for name in names)
    else:
        names = [name for name in NAMES if b"\n" not in name and (b"\t" not in name or kind == "txt")]
        data = b"path\n" * (kind == "tsv") + b"\n".join(names) + b"\n"
    manifest = named / f"list.{'jsonl' if 'json' in kind else kind}"
    manifest.write_bytes(data)
    found = timed(open_source(manifest))
    assert not found.skipped
    assert [os.fsencode(os.path.basename(item.path)) for item in found] == names


def test_text_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "m.tsv").write_bytes(b"path\ttext\na.wav\tcaf\xe9\n./a.wav\tyes\n")
    found = open_source(tmp_path / "m.tsv")
    assert [item.fields["text"] for item in found] == ["yes"]
    assert found.skipped == [{"path": f"{tmp_path / 'm.tsv'}:2", "reason": "text that is not UTF-8"}]


def test_printable() -> None:
    assert printable("caf\udce9\n\x85日本") == "caf\\xe9\\x0a\\x85日本"
    assert printable("\ud83d") == "\\ud83d"


def special(folder: Path) -> list[str]:
    """A pipe, a socket, a link to a device and a link to nothing, named as audio."""
    os.mkfifo(folder / "pipe.wav")
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(folder / "socket.wav"))
    (folder / "device.wav").symlink_to("/dev/zero")
    (folder / "lost.wav").symlink_to(folder / "nowhere")
    return ["device.wav", "lost.wav", "pipe.wav", "socket.wav"]


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = special(tmp_path)
    tone(tmp_path / "good.wav")
    (tmp_path / "m.tsv").write_text(
        "path\tduration\tframes\n" + "".join(f"{name}\t3\t\n{name}\t\t900\n" for name in [*names, "good.wav"])
    )
    for source in (tmp_path, tmp_path / "m.tsv"):
        found = scan(open_source(source), DataConfig(min_seconds=1e-3))
        assert {item.recording.id for item in found.utterances} == {"good.wav"} | (
            {"good.wav~2"} if source != tmp_path else set()
        )
        reasons = {row["reason"] for row in found.skipped}
        assert reasons == {"missing", "a pipe, device or socket, not a file"}
    for name in ("pipe.wav", "device.wav"):
        for kind in ("wav", "tsv", "jsonl", "txt", "jsonl.gz"):
            link = tmp_path / f"link.{kind}"
            link.symlink_to(tmp_path / name)
            with pytest.raises(ValueError, match=r"pipe, device or socket"):
                scan(open_source(link), DataConfig())
            link.unlink()


def test_audio_that_is_not_read_is_listed(tmp_path: Path) -> None:
    tone(tmp_path / "a" / "good.wav")
    tone(tmp_path / "a" / ".hidden.wav")
    tone(tmp_path / "a" / "x.take1", format="FLAC")
    for name in ("b/x.m4a", "b/y.AMR", "b/z.webm", "b/pcm.raw", "notes.txt", "b/data.bin", "._good.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A ")
    (tmp_path / "more.tar.gz").touch()
    found = open_source(tmp_path)
    assert [item.id for item in found] == ["a/good.wav"]
    assert {os.path.relpath(row["path"], tmp_path): row["reason"].split(";")[0] for row in found.skipped} == {
        "a/.hidden.wav": "hidden: its name begins with a dot",
        "a/x.take1": "audio with an unknown suffix",
        "b/pcm.raw": ".raw is not read",
        "b/x.m4a": ".m4a is not read",
        "b/y.AMR": ".amr is not read",
        "b/z.webm": ".webm is not read",
    }
    assert [note["note"] for note in found.notes] == ["1 .tar.gz not opened; unpack archives that hold recordings"]
    summary = open_data(tmp_path, DataConfig(valid_share=0)).summary()
    assert "6 skipped (1 .amr is not read" in summary
    assert "1 .tar.gz not opened" in summary
    with pytest.raises(ValueError, match=r"\.m4a is not read; convert it"):
        open_source(tmp_path / "b" / "x.m4a")
    with pytest.raises(ValueError, match=r"no audio files that can be read \(1 \.amr is not read"):
        open_source(tmp_path / "b")


@pytest.mark.parametrize("kind", ["AU", "AIFF", "NIST", "CAF", "W64", "RF64", "VOC", "PVF", "PAF", "AVR", "IRCAM"])
def test_what_the_library_reads_is_read(tmp_path: Path, kind: str) -> None:
    suffix = {"NIST": "sph", "IRCAM": "sf"}.get(kind, kind.lower())
    soundfile.write(tmp_path / f"x.{suffix}", np.full(16_000, 0.1), 16_000, format=kind, subtype="PCM_16")
    (item,) = timed(open_source(tmp_path))
    assert len(read_audio(item)) == 16_000


def test_rows_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_BYTES", 1000)
    tone(tmp_path / "a.wav")
    text = '{"path": "a.wav"}\n{"path": "a.wav", "text": "' + "x" * 5000 + '"}\n{"path": "./a.wav"}\n'
    (tmp_path / "m.jsonl").write_text(text)
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("m.jsonl", "m.jsonl.gz"):
        found = open_source(tmp_path / name)
        assert [item.id for item in found] == ["a.wav", "./a.wav"]
        assert found.skipped == [{"path": f"{tmp_path / name}:2", "reason": "a row longer than 16 MiB"}]
    assert [number for number, _ in rows(tmp_path / "m.jsonl")] == [1, 2, 3]
    monkeypatch.setattr(module, "TOTAL_BYTES", 4000)
    with pytest.raises(ValueError, match="more than 0 GiB of text; split it"):
        open_source(tmp_path / "m.jsonl.gz")


def test_nesting_has_a_limit(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    deep = ['{"path": "a.wav", "x": ' + "[" * n + "]" * n + "}" for n in (10, 100, 100_000)]
    (tmp_path / "m.jsonl").write_text("\n".join(deep))
    found = open_source(tmp_path / "m.jsonl")
    assert len(found) == 1
    assert [row["reason"] for row in found.skipped] == ["malformed manifest row: nested more than 64 deep"] * 2


def test_records_hold_any_name(tmp_path: Path) -> None:
    for file in (tmp_path / "records.jsonl", tmp_path / "record.json"):
        ledger.write(file, {"path": "caf\udce9.wav", "text": "日本"})
        assert json.loads(file.read_text(encoding="utf-8")) == {"path": "caf\udce9.wav", "text": "日本"}
