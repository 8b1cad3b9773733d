"""Simulates conversations from single-speaker recordings, to train and test diarization with any corpus.

Speakers take turns, with a random pause or overlap at every change, similar to Landini et al. 2022 ("From simulated mixtures to simulated
conversations as training data for end-to-end neural diarization"). Unlike there, pauses and overlaps follow exponential distributions
that are not fitted to a corpus. SUPERB's data (Libri2Mix) is harder in one way: both utterances start together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.decode import BadAudio, header_seconds, read_audio
from sottovoce.data.recording import Recording, Recordings, Samples, file_state
from sottovoce.data.turns import turns_text

SPLITS = ("train", "dev", "test")
AUDIO_VERSION = 1  # raise it when the same plan gives other audio, so that cached features are computed again
LEVEL = 0.05  # root mean square of speech before the random gain; full scale is 1
FADE = 0.01  # seconds at both ends of a turn; a click would reveal the change of speakers
HOP, QUIET_DB, GAP, SHORTEST = 0.01, 30.0, 0.3, 0.1  # see `speech`
TRIES = 20  # unusable recordings in a row after which a conversation ends


@dataclass(frozen=True)
class MixtureConfig:
    """train, dev, test: number of conversations. seconds: length of each. speakers: number in each, or the fewest and the most.

    turn: shortest and longest turn, seconds. pause: mean pause between turns, seconds. overlap: share of the changes at which the next
    speaker starts early. overlap_seconds: mean overlap. gain_db: largest random gain of a turn, up or down. noise_db: white noise this far
    below the level of speech; ``None``: no noise. seed: another seed gives other conversations.
    """

    train: int = 200
    dev: int = 40
    test: int = 40
    seconds: float = 20.0
    speakers: int | tuple[int, ...] = 2
    turn: tuple[float, ...] = (1.5, 6.0)
    pause: float = 0.5
    overlap: float = 0.3
    overlap_seconds: float = 1.0
    gain_db: float = 5.0
    noise_db: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if min(self.train, self.dev, self.test) < 0:
            raise ValueError("train, dev and test are numbers of conversations and must not be negative")
        if len(self.turn) != 2 or not 0.5 <= self.turn[0] <= self.turn[1]:
            raise ValueError("turn must be the shortest and the longest turn in seconds, from 0.5 on, e.g. [1.5, 6]")
        if not isinstance(self.speakers, int) and (len(self.speakers) != 2 or self.speakers[0] > self.speakers[1]):
            raise ValueError("speakers must be a number, or the fewest and the most, e.g. [2, 4]")
        if self.fewest < 2 or self.seconds < self.most * self.turn[0]:
            raise ValueError("speakers must be at least 2, and seconds enough for the shortest turn of each")
        if not 0 <= self.overlap <= 1 or self.pause < 0 or self.overlap_seconds < 0:
            raise ValueError("overlap must be a share from 0 to 1, pause and overlap_seconds must not be negative")

    @property
    def fewest(self) -> int:
        return self.speakers if isinstance(self.speakers, int) else self.speakers[0]

    @property
    def most(self) -> int:
        return self.speakers if isinstance(self.speakers, int) else self.speakers[1]


@dataclass(frozen=True)
class MixturePart:
    """`seconds` of `recording` from `start` on, scaled by `gain`, placed `at` seconds into the conversation."""

    recording: Recording
    start: float
    seconds: float
    at: float
    gain: float


@dataclass(frozen=True)
class Mixture:
    """Loader of a conversation (see `Recording.loader`). noise: standard deviation of the white noise."""

    parts: tuple[MixturePart, ...]
    seconds: float
    noise: float = 0.0
    seed: int = 0

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        mixture = np.zeros(round(self.seconds * SAMPLE_RATE), np.float32)
        for part in self.parts:
            wave = read_audio(part.recording, part.start, part.seconds)
            begin = round(part.at * SAMPLE_RATE)
            wave = wave[: max(len(mixture) - begin, 0)]
            mixture[begin : begin + len(wave)] += part.gain * _faded(wave)
        if self.noise:
            mixture += self.noise * np.random.default_rng(self.seed).standard_normal(len(mixture), np.float32)
        first = round(start * SAMPLE_RATE)
        last = None if seconds == float("inf") else first + round(seconds * SAMPLE_RATE)
        return mixture[first:last, None], SAMPLE_RATE

    def identity(self) -> str:
        """The state of the source files. The id of the conversation describes how they are mixed."""
        return repr([file_state(path) for path in dict.fromkeys(part.recording.path for part in self.parts)])


def mixtures(recordings: Recordings, config: MixtureConfig) -> Recordings:
    """Simulated conversations, the same on every call. Fields: ``split``, ``speaker`` (all speakers) and ``turns`` (see `turns_of`).

    recordings: one speaker each, with the fields ``speaker`` and ``split``; others are ignored. A conversation stays within one split. This
    function reads the audio of each turn to find its speech; a conversation is mixed when its audio is read. ValueError when a split has
    too few speakers, or when two splits share a speaker.
    """
    voices = check_voices(recordings, config)
    conversations = Recordings(skipped=recordings.skipped)
    for number, split in enumerate(SPLITS):
        for i in range(getattr(config, split)):
            random = np.random.default_rng([config.seed, number, i])  # independent of the number of conversations
            conversations.append(_conversation(voices[split], split, i, config, random))
    return conversations


def check_voices(recordings: Recordings, config: MixtureConfig) -> dict[str, dict[str, list[Recording]]]:
    """Split -> speaker -> recordings. Reads no audio. Raises the same ValueErrors as `mixtures`."""
    voices = _by_split(recordings)
    for split, count in ((split, getattr(config, split)) for split in SPLITS):
        if count and len(voices[split]) < config.most:
            raise ValueError(
                f"conversations of {config.most} need as many speakers, but the {split} split has {len(voices[split])}: give more "
                "recordings with a column 'speaker'"
            )
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = sorted(voices[a].keys() & voices[b].keys())
        if shared and getattr(config, a) and getattr(config, b):
            raise ValueError(f"speaker {shared[0]} is in {a} and in {b}: split the recordings by speaker")
    return voices


def _by_split(recordings: Recordings) -> dict[str, dict[str, list[Recording]]]:
    """Split -> speaker -> recordings, sorted by speaker and id."""
    voices: dict[str, dict[str, list[Recording]]] = {split: {} for split in SPLITS}
    for item in sorted(recordings, key=lambda item: (item.fields.get("speaker", ""), item.id)):
        speaker, split = item.fields.get("speaker", "").strip(), item.fields.get("split", "")
        if speaker and split in voices:
            voices[split].setdefault(speaker, []).append(item)
    return voices


def _conversation(
    voices: Mapping[str, list[Recording]], split: str, number: int, config: MixtureConfig, random: Generator
) -> Recording:
    people = config.most if config.fewest == config.most else int(random.integers(config.fewest, config.most, endpoint=True))
    names = [str(name) for name in random.choice(sorted(voices), people, replace=False)]
    parts: list[MixturePart] = []
    turns: list[tuple[float, float, str]] = []
    free_from = dict.fromkeys(names, 0.0)  # when each speaker may speak again
    speaker, start = names[0], float(random.exponential(config.pause))
    stretches = _stretches(voices, config, random)
    while config.seconds - start >= config.turn[0]:
        spoken_part = stretches(speaker, config.seconds - start)
        if spoken_part is None:
            break
        part, spoken = spoken_part
        part = MixturePart(part.recording, part.start, part.seconds, start, part.gain)
        parts.append(part)
        turns += [(start + a, start + b, speaker) for a, b in spoken]
        free_from[speaker] = end = start + part.seconds
        speaker = str(random.choice([name for name in names if name != speaker]))
        if random.random() < config.overlap:
            end -= min(float(random.exponential(config.overlap_seconds)), 0.9 * part.seconds)
        else:
            end += float(random.exponential(config.pause))
        start = max(end, free_from[speaker])
    if not parts:
        raise ValueError(f"no audio of {', '.join(names)} in the {split} split can be read")
    noise = 0.0 if config.noise_db is None else LEVEL * 10 ** (-config.noise_db / 20)
    plan = [
        (p.recording.id, *(round(value, 6) for value in (p.recording.start, p.start, p.seconds, p.at, p.gain))) for p in parts
    ]
    described = repr((AUDIO_VERSION, plan, config.seconds, noise, config.seed))
    name = (
        f"mixture-{split}-{number:04d}-{hashlib.blake2b(described.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()}"
    )
    return Recording(
        id=name,
        path=parts[0].recording.path,
        duration=config.seconds,
        fields={"split": split, "speaker": " ".join(sorted(names)), "turns": turns_text(turns)},
        loader=Mixture(tuple(parts), config.seconds, noise, number),
    )


SpokenPart = tuple[MixturePart, tuple[tuple[float, float], ...]]


def _stretches(
    voices: Mapping[str, list[Recording]], config: MixtureConfig, random: Generator
) -> Callable[[str, float], SpokenPart | None]:
    """stretch(speaker, room): a turn of the speaker of at most `room` seconds, and the (start, end) of the speech in it; None: no audio."""
    orders: dict[str, Iterator[Recording]] = {}

    def endless(speaker: str) -> Iterator[Recording]:
        while True:
            for i in random.permutation(len(voices[speaker])):
                yield voices[speaker][int(i)]

    def stretch(speaker: str, room: float) -> SpokenPart | None:
        order = orders.setdefault(speaker, endless(speaker))
        for _ in range(TRIES):
            recording = next(order)
            wanted, position = random.uniform(config.turn[0], config.turn[1]), random.random()
            gain_db = random.uniform(-config.gain_db, config.gain_db)
            try:
                length = recording.duration or header_seconds(recording.path)
                seconds = round(min(wanted, room, length), 3)
                start = round(position * (length - seconds), 3)
                wave = read_audio(recording, start, seconds)
            except BadAudio:
                continue
            spoken = speech(wave)
            if spoken:
                inside = np.concatenate([wave[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)] for a, b in spoken])
                gain = LEVEL / float(np.sqrt(np.mean(np.square(inside)))) * 10 ** (gain_db / 20)
                return MixturePart(recording, start, seconds, 0.0, gain), spoken
        return None

    return stretch


def speech(wave: Samples) -> tuple[tuple[float, float], ...]:
    """(start, end) in seconds of the stretches of speech in a clean recording of one speaker, detected by energy.

    A 10 ms frame is speech if it is at most 30 dB below the 95th percentile of the frames. Pauses up to 0.3 s are filled; stretches shorter
    than 0.1 s are removed.
    """
    size = round(HOP * SAMPLE_RATE)
    frames = np.square(wave[: len(wave) // size * size].astype(np.float64)).reshape(-1, size).mean(axis=1)
    if not len(frames) or not frames.any():
        return ()
    level = 10 * np.log10(frames + 1e-12)
    edges = _edges(level > np.percentile(level, 95) - QUIET_DB)
    stretches: list[list[float]] = []
    for start, end in edges * HOP:
        if stretches and start - stretches[-1][1] <= GAP:
            stretches[-1][1] = end
        else:
            stretches.append([start, end])
    return tuple((float(a), float(b)) for a, b in stretches if b - a >= SHORTEST)


def _edges(active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, 2): start and end index of every run of True."""
    change = np.flatnonzero(np.diff(np.pad(active.astype(np.int8), 1)))
    return change.reshape(-1, 2)


@lru_cache(maxsize=8)
def _ramp(size: int) -> NDArray[np.float32]:
    return np.linspace(0, 1, size, endpoint=False, dtype=np.float32)


def _faded(wave: Samples) -> Samples:
    size = min(round(FADE * SAMPLE_RATE), len(wave) // 2)
    faded = wave.copy()
    if size:
        faded[:size] *= _ramp(size)
        faded[-size:] *= _ramp(size)[::-1]
    return faded
