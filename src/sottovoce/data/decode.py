"""Audio files to 16 kHz mono. Reads only the stretch asked for."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.files import open_regular, reason
from sottovoce.data.headers import is_chained, mended
from sottovoce.data.recording import Recording, Samples

RATES = (1_000, 400_000)  # Hz; outside, the header is wrong
LONGEST = 30 * 24 * 3600  # seconds; a longer claim is a header that does not know (a stream)
FEWEST_BYTES = (
    50  # of a second of audio in a file; a header that claims more seconds is not believed, and the file is decoded to count
)
LOUDEST = 20.0  # times full scale. Speech of unit variance stays below; 16-bit numbers stored as floating point do not
DECODE_FROM_START = 60.0  # seconds, see _begin


class BadAudio(Exception):
    """A recording that cannot be used. ``reason`` is a short phrase for people, the same for the same kind of fault."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_audio(recording: Recording, start: float = 0.0, seconds: float | None = None) -> Samples:
    """(S,) float32, mono, 16 kHz: ``seconds`` of audio from ``start`` seconds into the recording.

    Without `seconds`, up to the recording's end. Gives ``round(seconds * 16000)`` samples, or fewer where the recording ends earlier
    than claimed. Channels are averaged unless the recording names one. Raises BadAudio when the file is missing, unreadable or not
    audio, when nothing is there, when a sample is not a number or beyond `LOUDEST`, when every sample is zero, and when the decoder
    fails in any way.
    """
    try:
        return _read_audio(recording, start, seconds)
    except BadAudio:
        raise
    except Exception as problem:  # whatever a decoder raises must not end a run of days
        raise BadAudio(f"unreadable ({type(problem).__name__})") from problem


def _read_audio(recording: Recording, start: float, seconds: float | None) -> Samples:
    if seconds is None:
        seconds = math.inf if recording.duration is None else recording.duration - start
    if seconds > LONGEST:
        seconds = math.inf
    if recording.loader is not None:
        frames, rate = recording.loader(start, seconds)
    else:
        frames, rate = read_frames(recording.path, recording.start + start, seconds)
    if not len(frames):
        raise BadAudio("no samples")
    if recording.channel is None:
        mono = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    elif 0 <= recording.channel < frames.shape[1]:
        mono = frames[:, recording.channel]
    else:
        raise BadAudio(f"no channel {recording.channel}")
    if not np.isfinite(mono).all():
        raise BadAudio("samples that are not numbers")
    if not mono.any():
        raise BadAudio("silent")
    if np.abs(mono).max() > LOUDEST:
        raise BadAudio(f"samples beyond {LOUDEST:g} times full scale")
    if rate != SAMPLE_RATE:
        mono = soxr.resample(np.ascontiguousarray(mono), rate, SAMPLE_RATE, quality="HQ")
    if seconds != math.inf:
        mono = mono[: round(seconds * SAMPLE_RATE)]
    return np.ascontiguousarray(mono, dtype=np.float32)


def played(audio: Samples, speed: float) -> Samples:
    """16 kHz audio at that speed, in 1 / speed of the time, its pitch and formants changed as a tape's."""
    if speed == 1:
        return audio
    return np.asarray(soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ"), np.float32)


def read_frames(file: str | BinaryIO, start: float, seconds: float) -> tuple[Samples, int]:
    """((frames, channels) float32, sample rate) of a stretch as it is stored. Raises BadAudio."""
    with _open(file) as audio:
        rate = audio.samplerate
        if start > LONGEST:
            return np.zeros((0, audio.channels), np.float32), rate
        first = round(start * rate)
        count = None if seconds == math.inf else math.ceil(seconds * rate) + 1  # one more, so that resampling rounds up
        try:
            drop = _begin(audio, first)
        except soundfile.LibsndfileError:  # past the end, or not seekable
            return np.zeros((0, audio.channels), np.float32), rate
        return _read(audio, None if count is None else count + drop)[drop:], rate


def header_seconds(file: str | BinaryIO) -> float:
    """Duration of a file in seconds: by its header where the file agrees with it, else by what there is to decode. Raises BadAudio."""
    try:
        with _open(file) as audio:
            frames = audio.frames
            if not _plausible(audio):
                frames = sum(len(block) for block in _blocks(audio, None))
            if frames <= 0:
                raise BadAudio("no samples")
            return float(frames / audio.samplerate)
    except BadAudio:
        raise
    except Exception as problem:
        raise BadAudio(f"unreadable ({type(problem).__name__})") from problem


def header_rate(path: str) -> int:
    """Sample rate of a file by its header, Hz. Raises BadAudio."""
    with _open(path) as audio:
        return int(audio.samplerate)


class Audio(soundfile.SoundFile):
    """size: bytes of the file."""

    size: int = 0


@contextmanager
def _open(file: str | BinaryIO) -> Iterator[Audio]:
    try:
        source = open_regular(file) if isinstance(file, str) else nullcontext(file)
    except (OSError, ValueError) as problem:
        raise BadAudio(reason(problem)) from problem
    with source as stream:
        try:
            size = stream.seek(0, os.SEEK_END)
            if not size:
                raise BadAudio("empty file")
            if is_chained(stream):
                raise BadAudio("an Ogg file of several recordings one after another; write them into files of their own")
            better = mended(stream)
            stream.seek(0)
            # A plain file goes to the library by its number: that is faster, and its name may be any bytes.
            plain = isinstance(stream, io.FileIO) and os.name == "posix"
            audio = Audio(better or (stream.fileno() if plain else stream), closefd=False)
            audio.size = size
        except BadAudio:
            raise
        except OSError as problem:
            raise BadAudio(reason(problem)) from problem
        except Exception as problem:  # of the library, of what stands between
            raise BadAudio("not audio, or broken") from problem
        with audio:
            if not RATES[0] <= audio.samplerate <= RATES[1]:
                raise BadAudio(f"sample rate of {audio.samplerate} Hz")
            yield audio


def _plausible(audio: Audio) -> bool:
    """Whether a file of its size can hold as much as its header claims."""
    return bool(audio.frames <= min(audio.size / FEWEST_BYTES, LONGEST) * audio.samplerate)


def _begin(audio: Audio, first: int) -> int:
    """Move to frame `first`, or before it; how many frames to drop after reading.

    An MP3 frame leans on the ones before it, so a jump into the middle gives a few wrong frames and a message on stderr. Clips are short,
    and decoding them from their start costs less than a millisecond for a second of audio.
    """
    if audio.format == "MP3" and first < DECODE_FROM_START * audio.samplerate:
        return first
    if first:
        audio.seek(first)
    return 0


def _read(audio: Audio, count: int | None) -> Samples:
    """(frames, channels); as much as can be decoded when the file breaks off."""
    if count is None and not _plausible(audio):
        return _join(audio, list(_blocks(audio, None)))
    left = max(audio.frames - audio.tell(), 0)
    begin = audio.tell()
    try:  # not more than there is: a wrong claim must not reserve memory for hours
        return np.asarray(audio.read(left if count is None else min(count, left), dtype="float32", always_2d=True))
    except soundfile.LibsndfileError:
        try:
            audio.seek(begin)
        except soundfile.LibsndfileError:
            return np.zeros((0, audio.channels), np.float32)
        return _join(audio, list(_blocks(audio, count)))


def _join(audio: Audio, blocks: list[Samples]) -> Samples:
    return np.concatenate(blocks) if blocks else np.zeros((0, audio.channels), np.float32)


def _blocks(audio: Audio, count: int | None) -> Iterator[Samples]:
    """Tenths of a second until `count` frames, the end, or a fault."""
    size = audio.samplerate // 10
    while count is None or count > 0:
        try:
            block = np.asarray(audio.read(size if count is None else min(size, count), dtype="float32", always_2d=True))
        except soundfile.LibsndfileError:
            return
        if not len(block):
            return
        yield block
        count = None if count is None else count - len(block)
