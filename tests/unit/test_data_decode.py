"""Any format comes out as 16 kHz mono of the right length; broken files say what is wrong with them."""

from __future__ import annotations

import wave as wave_module
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import BadAudio, DataConfig, Recording, read_audio, scan
from sottovoce.data.decode import header_seconds

from .test_data_sources import tone

FORMATS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


def strongest(wave: np.ndarray) -> float:
    """The strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(spectrum.argmax() * 16_000 / len(wave))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path: Path, kind: str, rate: int, channels: int) -> None:
    if kind == "opus" and rate == 44_100:
        rate = 48_000  # the format knows no 44.1 kHz
    path = tone(tmp_path / f"x.{kind}", 2.5, rate, channels, hertz=1000, **FORMATS[kind])
    item = Recording("x", str(path))
    wave = read_audio(item)
    assert wave.dtype == np.float32
    assert abs(len(wave) - 40_000) <= 1
    piece = read_audio(item, 1.25, 0.5)
    assert len(piece) == 8_000
    for part in (wave, piece):
        assert strongest(part) == pytest.approx(1000, abs=3)
        assert np.abs(part[800:-800]).max() == pytest.approx(0.5, rel=0.15)
    assert header_seconds(str(path)) == pytest.approx(2.5, abs=1e-3)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_crop_is_the_same_audio_as_the_whole(tmp_path: Path, kind: str) -> None:
    sweep = np.sin(np.cumsum(np.linspace(0.05, 1.0, 64_000))) * 0.4
    soundfile.write(tmp_path / "x", sweep, 16_000, **FORMATS[kind])
    item = Recording("x", str(tmp_path / "x"))
    whole = read_audio(item)
    for start in (0.0, 1.0, 2.2125):
        crop, begin = read_audio(item, start, 1.0), round(start * 16_000)
        np.testing.assert_allclose(crop, whole[begin : begin + 16_000], atol=0.02 if kind == "opus" else 1e-4)


def test_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.tile([[0.2, 0.6]], (16_000, 1)), 16_000, subtype="FLOAT")
    path = str(tmp_path / "x.wav")
    assert read_audio(Recording("x", path))[0] == pytest.approx(0.4)
    assert read_audio(Recording("x", path, channel=1))[0] == pytest.approx(0.6)
    with pytest.raises(BadAudio, match="no channel 2"):
        read_audio(Recording("x", path, channel=2))


def truncated(path: Path, **options: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 64_000)
    soundfile.write(path, noise, 16_000, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", FORMATS)
def test_of_a_truncated_file_the_rest_is_used(tmp_path: Path, kind: str) -> None:
    truncated(tmp_path / "x", **FORMATS[kind])
    wave = read_audio(Recording("x", str(tmp_path / "x"), duration=4.0))
    assert 0.8 < len(wave) / 16_000 < 2.4  # an Ogg page, the unit that can be lost, is a second


def broken(folder: Path, name: str) -> str:
    """Makes a file of the given kind; gives its path."""
    path = folder / "x.wav"
    rate, wave = 16_000, np.full(48_000, 0.1)
    if name == "text":
        path.write_text("this is no audio\n" * 99)
    elif name == "empty":
        path.touch()
    elif name == "folder":
        path.mkdir()
    elif name == "header only":
        soundfile.write(path, wave[:0], rate)
    elif name == "cut header":
        path.write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    elif name == "nan":
        wave[1000] = np.nan
        soundfile.write(path, wave, rate, subtype="FLOAT")
    elif name == "inf":
        wave[1000] = np.inf
        soundfile.write(path, wave, rate, subtype="FLOAT")
    elif name == "silence":
        soundfile.write(path, 0 * wave, rate)
    elif name == "rate":
        with wave_module.open(str(path), "wb") as stream:
            stream.setparams((1, 2, 7, 0, "NONE", ""))
            stream.writeframes(b"\1\1" * 100)
    elif name == "bad name":
        return "x\0.wav"
    return str(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "not audio"),
        ("empty", "empty file"),
        ("folder", "a folder, not a file"),
        ("missing", "missing"),
        ("header only", "no samples"),
        ("cut header", "not audio"),
        ("nan", "samples that are not numbers"),
        ("inf", "samples that are not numbers"),
        ("silence", "silent"),
        ("rate", "sample rate of 7 Hz"),
        ("bad name", "unreadable"),
    ],
)
def test_broken_files_name_their_fault(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(BadAudio) as caught:
        read_audio(Recording("x", broken(tmp_path, name)))
    assert caught.value.reason.startswith(reason)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError  # chmod does not stop root, which tests often run as

    path = str(tone(tmp_path / "x.wav"))
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(BadAudio, match="permission denied"):
        read_audio(Recording("x", path))


def test_beyond_the_end_there_is_nothing(tmp_path: Path) -> None:
    path = str(tone(tmp_path / "x.wav", 2.0))
    assert len(read_audio(Recording("x", path), 1.5, 2.0)) == 8_000
    with pytest.raises(BadAudio, match="no samples"):
        read_audio(Recording("x", path), 5.0, 1.0)


def test_a_failing_loader_is_bad_audio() -> None:
    def fail(start: float, seconds: float) -> tuple[np.ndarray, int]:
        raise RuntimeError("network down")

    with pytest.raises(BadAudio, match="unreadable"):
        read_audio(Recording("x", "x", duration=2.0, loader=fail), 0.0, 1.0)


def test_scan_reports_each_fault_and_keeps_the_rest(tmp_path: Path) -> None:
    good = tone(tmp_path / "good.wav", 3.0)
    short = tone(tmp_path / "short.wav", 0.1)
    items = [
        Recording("short", str(short)),
        Recording("gone", str(tmp_path / "gone.wav"), duration=5.0),
        Recording("good", str(good)),
    ]
    items.append(Recording("late", str(good), start=4.0))
    items.append(Recording("folder", str(tmp_path), duration=3.0))
    seen: list[tuple[int, int]] = []
    found = scan(items, DataConfig(), lambda done, total: seen.append((done, total)))
    assert [item.id for item in found.utterances] == ["good"]
    assert [row["reason"] for row in found.skipped] == [
        "shorter than 2 s",
        "missing",
        "starts after the end of its file",
        "a folder, not a file",
    ]
    assert seen[-1] == (4, 4)  # files
    with pytest.raises(ValueError, match=r"none of the 1 recordings can be used \(1 shorter than 2 s\); lower min_seconds"):
        scan(items[:1], DataConfig())
