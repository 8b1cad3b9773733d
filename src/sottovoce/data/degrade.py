"""Gives every recording its own acoustics: a room, an equaliser and noise, or a chain of other degradations.

In read-speech corpora, all recordings of a speaker often share one microphone, so the microphone identifies the speaker. With separate
acoustics, two recordings of a session share only the voice, as in VoxCeleb.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sottovoce.core.config import plain
from sottovoce.core.ledger import portable
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.augment import colours, equalize
from sottovoce.data.corrupt import add_noise, as_loud, reverberate
from sottovoce.data.decode import read_audio
from sottovoce.data.degradations.base import Chain
from sottovoce.data.draw import draw
from sottovoce.data.recording import Recording, Recordings, Samples, file_state

AUDIO_VERSION = 1  # raise it when the same settings give other audio


@dataclass(frozen=True)
class Degrade:
    """Acoustics, drawn for each recording from a hash of its id. rt60: shortest and longest reverberation time, seconds. drr_db:
    direct-to-reverberant energy ratio. equalizer_db: standard deviation of a random equaliser's gains. snr_db: lowest and highest
    signal-to-noise ratio, pink noise. seed: another seed draws other acoustics."""

    rt60: tuple[float, ...] = (0.15, 0.6)
    drr_db: float = 6.0
    equalizer_db: float = 5.0
    snr_db: tuple[float, ...] = (8.0, 23.0)
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("rt60", "snr_db"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name} must be two numbers, the lowest and the highest")
        if self.rt60[0] <= 0 or self.equalizer_db < 0:
            raise ValueError("rt60 must be above 0, equalizer_db must not be negative")

    def __call__(self, wave: Tensor, name: str) -> Tensor:
        """(S,) -> (S,) samples at 16 kHz, with the same energy. name: id of the recording."""
        numbers = torch.Generator().manual_seed(int(draw(f"{self.seed}/{name}") * 2**48))
        share = torch.rand(2, generator=numbers).tolist()
        seed = int(torch.randint(2**31, (), generator=numbers))
        rt60, snr = (low + part * (high - low) for part, (low, high) in zip(share, (self.rt60, self.snr_db), strict=True))
        row = wave[None]
        degraded = reverberate(row, None, rt60, seed, self.drr_db)
        degraded = equalize(degraded, colours(1, self.equalizer_db, numbers))
        degraded = add_noise(degraded, None, "pink", snr, seed)
        return as_loud(degraded, row, torch.ones_like(row))[0]


@dataclass(frozen=True)
class Degraded:
    """Loader of a degraded recording (see `Recording.loader`). Degrades the whole recording, then cuts the requested stretch."""

    recording: Recording
    how: Degrade | Chain

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        wave = self.how(torch.from_numpy(read_audio(self.recording)), self.recording.id).numpy()
        first = round(start * SAMPLE_RATE)
        last = None if seconds == float("inf") else first + round(seconds * SAMPLE_RATE)
        return wave[first:last, None], SAMPLE_RATE

    def identity(self) -> str:
        identity = getattr(self.recording.loader, "identity", None)
        known = file_state(self.recording.path) if identity is None else identity()
        return repr((AUDIO_VERSION, self.how, known))


def degrade(recordings: Recordings, how: Degrade | Chain) -> Recordings:
    """The recordings with loaders that degrade the audio when it is read. The field ``heard`` holds the settings."""
    degraded = Recordings(skipped=recordings.skipped, trials=recordings.trials)
    for item in recordings:
        before = f"{item.fields['heard']}; " if "heard" in item.fields else ""
        told = how if isinstance(how, Degrade) else portable(plain(how.steps))  # without private folders
        fields = {**item.fields, "heard": f"{before}{told}, {AUDIO_VERSION}"}
        degraded.append(replace(item, start=0.0, channel=None, fields=fields, loader=Degraded(item, how)))
    return degraded
