"""Speech that went through a codec."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr

from sottovoce.core.registry import DEGRADATIONS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.decode import BadAudio
from sottovoce.data.degradations.base import Degradation
from sottovoce.data.recording import Samples


class Coding(NamedTuple):
    """A codec of libsndfile: container, encoding, sample rate in Hz, and the range of libsndfile's compression level, if it has one."""

    container: str
    encoding: str
    rate: int = SAMPLE_RATE
    levels: tuple[float, float] | None = None


CODECS = {
    "opus": Coding("OGG", "OPUS", levels=(0.9, 1.0)),  # 32 to 8 kbit/s
    "vorbis": Coding("OGG", "VORBIS", levels=(0.5, 1.0)),  # 48 to 30
    "mp3": Coding("MP3", "MPEG_LAYER_III", levels=(0.5, 0.9)),  # 41 to 27
    "gsm": Coding("WAV", "GSM610", 8_000),  # 13
    "g721": Coding("AU", "G721_32", 8_000),  # 32
    "g723": Coding("AU", "G723_24", 8_000),  # 24
    "adpcm": Coding("WAV", "IMA_ADPCM", 8_000),  # 32
    "alaw": Coding("WAV", "ALAW", 8_000),  # 64
    "mulaw": Coding("WAV", "ULAW", 8_000),  # 64
}
Codec = Literal["opus", "vorbis", "mp3", "gsm", "g721", "g723", "adpcm", "alaw", "mulaw"]


@DEGRADATIONS.register("codec")
class Coded(Degradation):
    """A real codec, in memory: Opus, Vorbis and MP3 at low rates, and codecs of telephones."""

    @dataclass(frozen=True)
    class Config:
        """codecs: drawn with equal chances. Those of Opus, Vorbis and MP3 draw their rate, too."""

        codecs: tuple[Codec, ...] = ("opus", "vorbis", "mp3", "gsm", "g721", "g723", "adpcm", "alaw", "mulaw")

        def __post_init__(self) -> None:
            if not self.codecs:
                raise ValueError(f"codecs must name at least one of {', '.join(CODECS)}")
            missing = [
                name for name in self.codecs if CODECS[name].encoding not in soundfile.available_subtypes(CODECS[name].container)
            ]
            if missing:
                raise ValueError(f"this machine's libsndfile lacks {', '.join(missing)}; leave them out of codecs")

    def __call__(self, wave: Samples, random: np.random.Generator) -> Samples:
        codec, level = CODECS[str(random.choice(self.config.codecs))], float(random.random())
        return coded(wave, codec, None if codec.levels is None else drawn_level(codec.levels, level))


def drawn_level(levels: tuple[float, float], share: float) -> float:
    """The compression level at a share of the range."""
    return levels[0] + share * (levels[1] - levels[0])


def coded(wave: Samples, codec: Coding, level: float | None = None) -> Samples:
    """(S,) -> (S,): encoded and decoded. BadAudio if the encoder fails."""
    scale = max(1.0, float(np.abs(wave).max()))
    x = wave / scale if codec.rate == SAMPLE_RATE else soxr.resample(wave / scale, SAMPLE_RATE, codec.rate, quality="HQ")
    settings = {} if level is None else {"compression_level": level}
    file = io.BytesIO()
    try:
        soundfile.write(file, x, codec.rate, format=codec.container, subtype=codec.encoding, **settings)
        file.seek(0)
        y, _ = soundfile.read(file, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError) as problem:
        raise BadAudio(f"cannot be encoded as {codec.encoding}") from problem
    if codec.rate != SAMPLE_RATE:
        y = soxr.resample(y, codec.rate, SAMPLE_RATE, quality="HQ")
    y = np.pad(y[: len(wave)], (0, max(0, len(wave) - len(y))))
    return (scale * y).astype(np.float32)
