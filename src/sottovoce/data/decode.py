"""Decodes audio files to 16 kHz mono. Reads only the requested stretch."""

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
LONGEST = 30 * 24 * 3600  # seconds; a header that claims more does not know its length (a stream)
FEWEST_BYTES = 50  # for a second of audio; a file whose header claims more seconds is decoded to count them
LOUDEST = 20.0  # times full scale; speech of unit variance stays below, 16-bit numbers stored as floating point do not
DECODE_FROM_START = 60.0  # seconds, see _begin


class BadAudio(Exception):
    """A recording that cannot be used. reason: a short phrase, the same for the same kind of fault."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_audio(recording: Recording, start: float = 0.0, seconds: float | None = None) -> Samples:
    """(S,) float32, mono, 16 kHz: `seconds` of audio from `start` seconds into the recording; without `seconds`, to its end.

    Returns ``round(seconds * 16000)`` samples, or fewer where the recording ends earlier. Channels are averaged unless the recording names
    one. Raises BadAudio when the file is missing or cannot be decoded, has no samples or only zeros, or has a sample that is not finite
    or above `LOUDEST`.
    """
    try:
        return _read_audio(recording, start, seconds)
    except BadAudio:
        raise
    except Exception as problem:  # a failing decoder must not end a long run
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
    """16 kHz audio at another speed: 1 / speed as long, with pitch and formants changed as on a tape."""
    if speed == 1:
        return audio
    return np.asarray(soxr.resample(audio, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ"), np.float32)


def read_frames(file: str | BinaryIO, start: float, seconds: float) -> tuple[Samples, int]:
    """((frames, channels) float32, sample rate in Hz) of a stretch, without resampling. Raises BadAudio."""
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
    """Duration of a file in seconds, from its header if that is plausible, else by decoding the file. Raises BadAudio."""
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
    """Sample rate in Hz from the header of a file. Raises BadAudio."""
    with _open(path) as audio:
        return int(audio.samplerate)


class Audio(soundfile.SoundFile):
    """An open audio file. size: its bytes."""

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
                raise BadAudio("an Ogg file of several recordings one after another; write each into its own file")
            corrected = mended(stream)
            stream.seek(0)
            # Pass a plain file by its descriptor: this is faster, and its name may be any bytes.
            is_plain = isinstance(stream, io.FileIO) and os.name == "posix"
            audio = Audio(corrected or (stream.fileno() if is_plain else stream), closefd=False)
            audio.size = size
        except BadAudio:
            raise
        except OSError as problem:
            raise BadAudio(reason(problem)) from problem
        except Exception as problem:  # from libsndfile or the header reader
            raise BadAudio("not audio, or broken") from problem
        with audio:
            if not RATES[0] <= audio.samplerate <= RATES[1]:
                raise BadAudio(f"sample rate of {audio.samplerate} Hz")
            yield audio


def _plausible(audio: Audio) -> bool:
    """Whether a file of this size can hold the duration that its header claims."""
    return bool(audio.frames <= min(audio.size / FEWEST_BYTES, LONGEST) * audio.samplerate)


def _begin(audio: Audio, first: int) -> int:
    """Seek to frame `first` or before it. Returns the number of frames to drop after reading.

    An MP3 frame depends on the frames before it: a seek gives a few wrong frames and a message on stderr. Short MP3s are therefore decoded
    from the start, which costs less than a millisecond per second of audio.
    """
    if audio.format == "MP3" and first < DECODE_FROM_START * audio.samplerate:
        return first
    if first:
        audio.seek(first)
    return 0


def _read(audio: Audio, count: int | None) -> Samples:
    """(frames, channels) of `count` frames, or of all (None); fewer if decoding fails on the way."""
    if count is None and not _plausible(audio):
        return _join(audio, list(_blocks(audio, None)))
    left = max(audio.frames - audio.tell(), 0)
    begin = audio.tell()
    try:  # limit by the frames left: a wrong count must not reserve memory for hours
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
    """Blocks of 0.1 s, until `count` frames, the end of the file, or an error."""
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
