"""The length of a file is what its audio has, whatever its header claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import BadAudio, DataConfig, Recording, open_source, read_audio, scan
from sottovoce.data.decode import header_seconds

RATE = 16_000
WAVE = (
    0.3 * np.random.default_rng(0).uniform(-1, 1, 3 * RATE).astype(np.float32) * np.linspace(0.01, 1, 3 * RATE, dtype=np.float32)
)


def claims(path: Path, place: bytes, offset: int, value: int, size: int = 4, order: str = "big") -> str:
    """Writes a number into the file, `offset` bytes behind a mark."""
    data = bytearray(path.read_bytes())
    at = data.find(place) + offset
    data[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    path.write_bytes(data)
    return str(path)


def check(path: str, seconds: float = 3.0, tolerance: float = 1e-3) -> None:
    """The length is right, and the last half second is read from its own place."""
    assert header_seconds(path) == pytest.approx(seconds, abs=tolerance)
    whole = read_audio(Recording("x", path))
    assert len(whole) / RATE == pytest.approx(seconds, abs=tolerance)
    late = read_audio(Recording("x", path), seconds - 0.5, 0.4)
    begin = round((seconds - 0.5) * RATE)
    np.testing.assert_allclose(late, whole[begin : begin + len(late)], atol=1e-3)


@pytest.mark.parametrize("claimed", [0, 1, 20_000, 47_999, 48_001, 10**9, 2**36 - 1])
def test_flac(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, WAVE, RATE)
    packed = int.from_bytes(path.read_bytes()[18:26], "big")
    check(claims(path, b"fLaC", 18, packed >> 36 << 36 | claimed, 8))


@pytest.mark.parametrize("kind", ["wav", "rf64", "aiff", "au", "caf"])
@pytest.mark.parametrize("claimed", [0, 1000, "more"])
def test_sizes_of_chunks(tmp_path: Path, kind: str, claimed: int | str) -> None:
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, WAVE, RATE, format=kind.upper(), subtype="PCM_16")
    place, offset, size, order = {
        "wav": (b"data", 4, 4, "little"),
        "rf64": (b"ds64", 16, 8, "little"),
        "aiff": (b"SSND", 4, 4, "big"),
        "au": (b".snd", 8, 4, "big"),
        "caf": (b"data", 4, 8, "big"),
    }[kind]
    value = 2 ** (8 * size) - 1 if isinstance(claimed, str) else claimed
    check(claims(path, place, offset, value, size, order))


def test_what_follows_the_samples_is_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, WAVE, RATE)
    path.write_bytes(path.read_bytes() + b"LIST" + (4000).to_bytes(4, "little") + b"\1" * 4000)
    check(str(path))


@pytest.fixture
def vbr(tmp_path: Path) -> tuple[Path, int]:
    """24 s whose beginning is dense, with a Xing header; and where the first frame of audio is."""
    noise = np.random.default_rng(0).normal(size=4 * RATE) * 0.3
    speech = np.sin(np.arange(20 * RATE) / 20) * 0.3
    path = tmp_path / "x.mp3"
    soundfile.write(path, np.concatenate([noise, speech]), RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data = path.read_bytes()
    at = data.find(b"Xing") + 4
    while data[at : at + 2] != data[:2]:
        at += 1
    return path, at


def test_mp3_without_a_header(vbr: tuple[Path, int]) -> None:
    path, first = vbr
    check(str(path), 24, 0.01)
    path.write_bytes(path.read_bytes()[first:])
    check(str(path), 24, 0.15)


def test_mp3_with_the_header_of_another_file(vbr: tuple[Path, int]) -> None:
    path, _ = vbr
    one = path.read_bytes()
    path.write_bytes(one + one)
    check(str(path), 48, 0.25)
    path.write_bytes(one[: len(one) // 2])
    assert header_seconds(str(path)) < 20
    check(str(path), header_seconds(str(path)), 0.01)
    path.write_bytes(one)
    check(claims(path, b"Xing", 8, 10**6), 24, 0.15)


def test_one_false_header_costs_the_others_nothing(tmp_path: Path) -> None:
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.flac", WAVE, RATE)
    path = tmp_path / "a.flac"
    data = bytearray(path.read_bytes())
    data[22] = 0x7F  # 37 hours
    path.write_bytes(data)
    found = scan(open_source(tmp_path), DataConfig())
    assert [item.seconds for item in found.utterances] == [3.0] * 4


@pytest.mark.parametrize(
    ("factor", "reason"), [(1.0, ""), (30.0, ""), (1e4, "beyond 20 times"), (1e25, "beyond"), (1e38 * 3.4, "not numbers|beyond")]
)
def test_samples_that_no_audio_has_are_refused(tmp_path: Path, factor: float, reason: str) -> None:
    with np.errstate(over="ignore"):
        soundfile.write(tmp_path / "x.wav", WAVE * np.float32(factor), RATE, subtype="FLOAT")
    item = Recording("x", str(tmp_path / "x.wav"))
    if reason:
        with pytest.raises(BadAudio, match=reason):
            read_audio(item)
    else:
        assert len(read_audio(item)) == len(WAVE)


@pytest.mark.parametrize("problem", [RuntimeError, MemoryError, AssertionError, ZeroDivisionError, UnicodeDecodeError])
def test_whatever_a_decoder_raises_costs_its_own_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: type[Exception]
) -> None:
    soundfile.write(tmp_path / "x.wav", WAVE, RATE)

    def fail(*_: object, **__: object) -> None:
        raise problem("utf-8", b"", 0, 1, "") if problem is UnicodeDecodeError else problem("no")

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    with pytest.raises(BadAudio, match=f"unreadable \\({problem.__name__}\\)"):
        read_audio(Recording("x", str(tmp_path / "x.wav")))


def test_several_recordings_in_one_file_are_not_read_as_the_first(tmp_path: Path) -> None:
    for name, kind in (("a", "VORBIS"), ("b", "OPUS")):
        soundfile.write(tmp_path / f"{name}.ogg", WAVE, RATE, format="OGG", subtype=kind)
        check(str(tmp_path / f"{name}.ogg"))
    one, other = ((tmp_path / f"{name}.ogg").read_bytes() for name in "ab")
    for data in (one + other, other + one, one + one):
        (tmp_path / "c.ogg").write_bytes(data)
        with pytest.raises(BadAudio, match="several recordings"):
            header_seconds(str(tmp_path / "c.ogg"))


def test_two_flacs_in_one_file_leave_the_first_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", WAVE, RATE)
    soundfile.write(tmp_path / "b.flac", WAVE[:RATE], RATE)
    path = tmp_path / "c.flac"
    path.write_bytes((tmp_path / "a.flac").read_bytes() + (tmp_path / "b.flac").read_bytes())
    assert header_seconds(str(path)) == 3.0
    assert len(read_audio(Recording("x", str(path)))) == len(WAVE)
