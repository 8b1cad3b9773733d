"""Random manifests and mutated audio: never a trace, never a wait, and what is read and what is skipped is all there was.

The number of inputs is fixed, and each is drawn from its own seed, which the name of a failing test gives.
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sottovoce.data import BadAudio, DataConfig, Recording, open_data, open_source, read_audio, scan
from sottovoce.data.decode import header_seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

CONFIG = DataConfig(seconds_per_batch=4, min_seconds=0.2, workers=0, valid_share=0)
KINDS = {
    "wav": {}, "flac": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {}, "aiff": {}, "au": {}, "caf": {},
    "w64": {}, "rf64": {}, "sph": {"format": "NIST"}, "voc": {},
}  # fmt: skip
ODD: list[Any] = [
    None, "", "nan", "NaN", "-1", -1, 0, 1, 0.5, 1.5, 1e6, 1e308, -0.0, float("nan"), float("inf"), 10**400, True, "0.0", "1.0",
    "left", "1:02", "x" * 300, "\x00", "a\nb", 'q"q', "é", "\udce9", "\ud83d", [], {}, [1, [2, [3]]], {"a": float("nan")},
    "https://x.org/a.wav", "cat a |",
]  # fmt: skip
KEYS = [
    "start", "end", "offset", "duration", "seconds", "length", "frames", "num_samples", "start_ms", "end_frame", "channel", "text", "label",
    "split", "speaker", "extra", "rttm", "turns", "audio", "id", "n_frames", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 2))
    for kind, options in KINDS.items():
        soundfile.write(made / f"x.{kind}", wave, 16_000, **(options or {"format": kind.upper()}))
    (made / "broken.wav").write_bytes(b"RIFF" + bytes(40))
    (made / "folder.wav").mkdir()
    return made


def plain(text: str) -> None:
    """A message is one line that says something."""
    assert text.strip()
    assert "\n" not in text


def names(folder: Path) -> list[str]:
    return [
        *(path.name for path in folder.glob("*.*") if path.suffix[1:] in KINDS),
        "missing.wav",
        "caf\udce9.wav",
        "",
        "\x00.wav",
    ]


def row(draw: random.Random, folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"path": draw.choice(names(folder))}
    for key in draw.sample(KEYS, draw.randint(0, 6)):
        made[key] = draw.choice(ODD)
    if draw.random() < 0.1:
        made["path"] = draw.choice(ODD)
    return made


def source(draw: random.Random, folder: Path) -> dict[str, Any]:
    kind = draw.choice(["file", "file", "file", "command", "url", "memory", "shar", "other", None])
    place = draw.choice([str(folder / "x.wav"), *names(folder), *ODD])
    return {"type": kind, "channels": draw.choice([[0], [0, 1], [], None]), "source": place}


def lhotse_cut(draw: random.Random, folder: Path) -> dict[str, Any]:
    recording = {
        "id": draw.choice(["r", *ODD]), "sources": [source(draw, folder) for _ in range(draw.randint(0, 2))],
        "sampling_rate": draw.choice([16_000, *ODD]), "num_samples": draw.choice([16_000, *ODD]), "duration": draw.choice([1.0, *ODD]),
        "channel_ids": draw.choice([[0], [0, 1], None]),
    }  # fmt: skip
    cut = {
        "id": draw.choice(["c", "d", *ODD]), "type": draw.choice(["MonoCut", "MonoCut", "MultiCut", "PaddingCut", "Other"]),
        "start": draw.choice([0, 0.2, *ODD]), "duration": draw.choice([0.5, *ODD]), "channel": draw.choice([0, 1, *ODD]),
        "recording": draw.choice([recording] * 8 + ODD[:4]),
        "supervisions": draw.choice([[], [{"text": "hi"}], [{"text": draw.choice(ODD)}], *ODD]),
    }  # fmt: skip
    if draw.random() < 0.2:
        return {"id": "m", "type": "MixedCut", "tracks": [{"cut": cut, "type": "MonoCut", "offset": draw.choice([0.0, *ODD])}]}
    if draw.random() < 0.2:
        cut.pop(draw.choice(list(cut)))
    return cut


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, most of them near the beginning, where headers are; or a part lost, doubled or added."""
    made = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 8, 64])):
        at = draw.randrange(min(len(made), draw.choice([16, 64, 512, 10**9]))) if made else 0
        if made:
            made[at] = draw.choice([0, 0xFF, 0x7F, 0x80, draw.randrange(256), made[at] ^ 1 << draw.randrange(8)])
    kind = draw.randrange(8)
    cut = draw.randrange(len(made) + 1)
    if kind == 0:
        return bytes(made[:cut])
    if kind == 1:
        return bytes(made[cut:])
    if kind == 2:
        return bytes(made + made)
    if kind == 3:
        return bytes(made[:cut] + draw.randbytes(draw.randrange(500)) + made[cut:])
    return bytes(made)


def as_manifest(draw: random.Random, folder: Path, kind: str) -> tuple[bytes, int]:
    """A manifest, and how many rows that are not blank it has below its header."""
    count = draw.randint(1, 8)
    if kind in ("csv", "tsv"):
        separator = {"csv": draw.choice(",;"), "tsv": "\t"}[kind]
        keys = ["path", *draw.sample(KEYS[:-1], draw.randint(0, 5))]
        lines = []
        for _ in range(count):
            cells = [str(draw.choice(ODD) if key != "path" else draw.choice(names(folder)) or "x") for key in keys]
            cells = [cell.replace("\n", " ").replace('"', "'") for cell in cells]
            lines.append(separator.join(cells[: draw.choice([len(cells)] * 5 + [1])] + ["x"] * (draw.random() < 0.1)))
        lines = [line if line.strip(separator + " \t") else "x" for line in lines]
        text = "\n".join([separator.join(keys), *lines])
    elif kind == "fairseq":
        lines = [f"{draw.choice(names(folder)) or 'x'}\t{draw.choice([16_000, 0, 10**30])}"]
        lines += [f"{draw.choice(names(folder)) or 'x'}\t{draw.choice([16_000, *ODD[:8]])}" for _ in range(count - 1)]
        text = "\n".join([str(folder), *lines])
    elif kind == "txt":
        text = "\n".join((draw.choice(names(folder)) or "x") for _ in range(count))
    else:
        made = [lhotse_cut(draw, folder) if kind == "cuts" else row(draw, folder) for _ in range(count)]
        lines = [json.dumps(each) for each in made]
        for i in range(count):
            if draw.random() < 0.1:
                lines[i] = (
                    lines[i][: draw.randrange(1, len(lines[i]) + 1)]
                    if draw.random() < 0.7
                    else draw.choice(["[]", "5", "[" * 5000])
                )
        text = "\n".join(lines)
    return text.replace("\ud83d", "?").encode("utf-8", "surrogateescape"), count


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("kind", ["csv", "tsv", "fairseq", "txt", "jsonl", "cuts"])
def test_manifests(folder: Path, tmp_path: Path, kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(f"{kind} {seed}")
    for number in range(10):
        data, count = as_manifest(draw, folder, kind)
        suffix = {"fairseq": "tsv", "cuts": "jsonl"}.get(kind, kind)
        manifest = folder / f"{kind}-{seed}-{number}.{suffix}"
        if kind in ("jsonl", "cuts") and draw.random() < 0.3:
            manifest, data = manifest.with_name(manifest.name + ".gz"), gzip.compress(data)
        manifest.write_bytes(data)
        try:
            found = open_source(manifest)
        except ValueError as problem:
            plain(str(problem))
            continue
        finally:
            manifest.unlink()
        assert len(found) + len(found.skipped) == count, data
        assert len({item.id for item in found}) == len(found)
        try:
            scanned = scan(found, CONFIG)
        except ValueError as problem:
            plain(str(problem))
            continue
        used = {item.recording.id for item in scanned.utterances}
        assert len(used) + len(scanned.skipped) == count, data
        if kind != "cuts":  # some of which are mixtures, or padding, of any length
            assert sum(item.seconds for item in scanned.utterances) <= len(used) * 1.1
        for item in found:
            try:
                assert len(read_audio(item)) <= 16_000 * 2
            except BadAudio:
                continue


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("kind", KINDS)
def test_audio(folder: Path, tmp_path: Path, kind: str, seed: int) -> None:
    draw = random.Random(f"{kind} {seed}")
    whole = (folder / f"x.{kind}").read_bytes()
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(20):
        path = audio / f"{number:02d}.{kind}"
        path.write_bytes(mutated(draw, whole))
        seconds = samples = 0.0
        try:
            seconds = header_seconds(str(path))
        except BadAudio as problem:
            plain(problem.reason)
        try:
            wave = read_audio(Recording("x", str(path)))
            samples = len(wave)
            assert np.isfinite(wave).all()
        except BadAudio as problem:
            plain(problem.reason)
        assert seconds < 40_000, "a claim that a file of this size cannot keep"
        assert samples < 40_000 * 16_000
    try:
        data = open_data(audio, CONFIG, skipped_file=tmp_path / "skipped.jsonl")
        used = {item.recording.path for item in data.train.plan.utterances}
        left_out = {item["path"] for item in data.skipped}
        assert used | left_out == {str(path) for path in audio.iterdir()}
        assert not used & left_out
        while data.train.state()["epoch"] == 0:
            next(data.train)
    except ValueError as problem:
        plain(str(problem))
