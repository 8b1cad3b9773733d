"""Synthesises speech in ten languages, with rooms and noise, for a first run without a download. The same seed gives the same audio."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from sottovoce.core.cache import cache_home
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import espeak
from sottovoce.data.demo_words import WORDS
from sottovoce.data.recording import Samples

VERSION = 1  # version of the cached demo and of its search; raise it when the audio changes
MINUTES = 20.0
SLOTS = ("train", "test", "train", "dev", "train", "train")  # the splits of the speakers of each language
PART = "demo-part-"  # prefix of the folder in which the demo is synthesised
_NAMES = (
    "f1 m1 f2 m2 f3 m3 f4 m4 f5 m5 m6 m7 m8 belinda linda steph aunty grandma grandpa max michel norbert pablo pedro adam david edward "
    "gustave marcelo miguel paul quincy shelby victor zac anika antonio benjamin caleb boris"
)
VOICES = tuple(_NAMES.split())
COLUMNS = ("path", "seconds", "speaker", "language", "text", "split")
SEARCH_COLUMNS = ("path", "seconds", "speaker", "text", "role", "matches")  # as the task qbe reads them
ASKING, ASKED = "f2", ("m1", "f3", "m7", "linda", "adam", "f5")  # voices of the search
PHRASES, SENTENCES = 8, 24


def make_demo(folder: str | Path, minutes: float = MINUTES, seed: int = 0) -> Path:
    """Synthesise about `minutes` of speech into `folder`. Returns the path of its ``manifest.tsv``.

    Audio: 16 kHz FLAC. Columns: path, seconds, speaker, language, text, split (train, dev, test, which share no speaker). The same seed
    and version of espeak-ng give the same audio. Raises ValueError when espeak-ng is not installed or fails.
    """
    if not 0 < minutes <= 600:
        raise ValueError(f"minutes must be above 0 and at most 600, not {minutes:g}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(minutes, seed)
    speech, counts, rate = _speak(jobs, minutes * 60)
    rows, begin = ["\t".join(COLUMNS)], 0
    for number, (job, count) in enumerate(zip(jobs, counts, strict=False)):
        dry = speech[begin : begin + count].astype(np.float32) / 32768
        begin += count
        audio = _room(soxr.resample(dry, rate, SAMPLE_RATE), np.random.default_rng([seed, number, 1]))
        name = f"{job['language']}/{job['speaker']}-{number:05d}.flac"
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, audio, SAMPLE_RATE, subtype="PCM_16")
        cells = (name, f"{len(audio) / SAMPLE_RATE:.4f}", job["speaker"], job["language"], job["text"], job["split"])
        rows.append("\t".join(cells))
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def make_search(folder: str | Path, seed: int = 0) -> Path:
    """Synthesises English phrases by one voice, and sentences by others, of which each contains one or more. Returns ``manifest.tsv``.

    Columns are those that the task ``qbe`` reads: role is ``query`` or ``doc``; ``matches`` of a sentence lists the paths of its phrases.
    Raises ValueError when espeak-ng is not installed or fails.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words, random = WORDS["en"], np.random.default_rng([seed, 4])
    phrases = [words.predicates[i] for i in random.permutation(len(words.predicates))[:PHRASES]]
    jobs = [
        {"voice": f"en+{ASKING}", "pitch": 60, "range": 50, "rate": 160, "text": text, "speaker": ASKING, "role": "query"}
        for text in phrases
    ]
    for number in range(SENTENCES):
        voice = ASKED[number % len(ASKED)]
        subject, place, when = (each[random.integers(len(each))] for each in (words.subjects, words.places, words.times))
        text = f"{when}, {subject} {phrases[number % PHRASES]} {place}"
        pitch, rate = int(random.integers(30, 70)), int(random.integers(140, 185))
        jobs.append(
            {"voice": f"en+{voice}", "pitch": pitch, "range": 50, "rate": rate, "text": text, "speaker": voice, "role": "doc"}
        )
    speech, counts, rate = _speak(jobs, 600)
    names = [f"{job['role']}-{number:02d}.flac" for number, job in enumerate(jobs)]
    rows, begin = ["\t".join(SEARCH_COLUMNS)], 0
    for number, (job, name, count) in enumerate(zip(jobs, names, counts, strict=True)):
        dry = speech[begin : begin + count].astype(np.float32) / 32768
        begin += count
        audio = _room(soxr.resample(dry, rate, SAMPLE_RATE), np.random.default_rng([seed, number, 5]))
        soundfile.write(folder / name, audio, SAMPLE_RATE, subtype="PCM_16")
        found = [name for name, text in zip(names, phrases, strict=False) if text in job["text"]] if job["role"] == "doc" else []
        cells = (name, f"{len(audio) / SAMPLE_RATE:.4f}", job["speaker"], job["text"], job["role"], json.dumps(found))
        rows.append("\t".join(map(str, cells)))
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def demo_manifest() -> Path:
    """The manifest of the cached demo, synthesised at the first call. Several processes may call this at once."""
    return _cached("demo", make_demo)


def search_manifest() -> Path:
    """The manifest of the cached search (`make_search`), as `demo_manifest`."""
    return _cached("demo-search", make_search)


def _cached(name: str, make: Callable[[Path], Path]) -> Path:
    cache = cache_home()
    folder = cache / f"{name}-{VERSION}"
    if not (folder / "manifest.tsv").exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(cache)
            part = Path(tempfile.mkdtemp(prefix=f"{PART}{socket.gethostname()}-{os.getpid()}-", dir=cache))
        except OSError as problem:
            raise ValueError(
                f"cannot write the demo speech to {cache} ({problem}); set SOTTOVOCE_CACHE to another folder"
            ) from None
        try:
            make(part)
            part.chmod(0o755)  # mkdtemp creates a private folder
            try:
                part.rename(folder)
            except OSError:  # another process was first
                if not (folder / "manifest.tsv").exists():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder / "manifest.tsv"


def _clear_leftovers(cache: Path) -> None:
    """Remove folders of killed processes: on this machine when the process is gone, from other machines after a day."""
    for folder in cache.glob(f"{PART}*"):
        host, _, pid = folder.name.removeprefix(PART).rpartition("-")[0].rpartition("-")
        try:
            if host == socket.gethostname() and pid.isdigit():
                os.kill(int(pid), 0)
                continue
            if time.time() - folder.stat().st_mtime < 24 * 3600:
                continue
        except ProcessLookupError:
            pass
        except OSError:  # the process belongs to another user, or the folder is already removed
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _jobs(minutes: float, seed: int) -> list[dict[str, Any]]:
    """More sentences than needed. Speakers and languages alternate, so that any number of minutes is balanced."""
    jobs: list[dict[str, Any]] = []
    for _turn in range(math.ceil(minutes * 60 / (2.0 * len(SLOTS) * len(WORDS))) + 1):  # no sentence is shorter than 2 s
        for slot, split in enumerate(SLOTS):
            for place, language in enumerate(WORDS):
                speaker_random = np.random.default_rng([seed, slot, place, 2])
                voice = VOICES[(slot * len(WORDS) + place * 7) % len(VOICES)]
                pitch, rate = int(speaker_random.integers(30, 70)), int(speaker_random.integers(130, 190))
                sentence_random = np.random.default_rng([seed, len(jobs), 3])
                jobs.append({
                    "voice": f"{language}+{voice}",
                    "pitch": pitch + int(sentence_random.integers(-4, 5)),
                    "range": int(sentence_random.integers(35, 65)),
                    "rate": rate + int(sentence_random.integers(-10, 11)),
                    "text": _sentence(language, sentence_random),
                    "speaker": f"{language}{slot}",
                    "language": language,
                    "split": split,
                })  # fmt: skip
    return jobs


def _sentence(language: str, random: np.random.Generator) -> str:
    vocabulary = WORDS[language]

    def pick(items: tuple[str, ...]) -> str:
        return items[random.integers(len(items))]

    clauses = [f"{pick(vocabulary.subjects)} {pick(vocabulary.predicates)}" for _ in range(int(random.integers(1, 4)))]
    if language in ("tr", "hi"):  # the verb comes last
        clauses[0] = f"{pick(vocabulary.times)} {pick(vocabulary.places)}, {clauses[0]}"
    else:
        clauses[0] = f"{clauses[0]} {pick(vocabulary.places)}, {pick(vocabulary.times)}"
    text = f", {vocabulary.link} ".join(clauses)
    return text[0].upper() + text[1:] + ("।" if language == "hi" else ".")


def _speak(jobs: list[dict[str, Any]], seconds: float) -> tuple[np.ndarray[Any, np.dtype[np.int16]], list[int], int]:
    """(samples of all jobs, number of samples of each job, sample rate in Hz)."""
    with tempfile.TemporaryDirectory() as place:
        listed, speech = Path(place, "jobs.json"), Path(place, "speech.npy")
        listed.write_text(json.dumps(jobs), encoding="utf-8")
        espeak.run("the demo speech", ["speak", str(listed), str(speech), str(seconds)], timeout=120 + seconds)
        info = json.loads(speech.with_suffix(".json").read_text())
        return np.load(speech), info["counts"], info["rate"]


def _room(dry: Samples, random: np.random.Generator) -> Samples:
    """Add a random small room, spectral tilt, noise and level. Keeps the length."""
    taps = int(SAMPLE_RATE * random.uniform(0.02, 0.2))
    echo = random.standard_normal(taps) * np.exp(-6.9 * np.arange(taps) / taps)  # decays by 60 dB
    echo *= random.uniform(0.05, 0.5) / np.sqrt((echo**2).sum())
    echo[0] = 1.0
    size = 1 << (len(dry) + taps).bit_length()
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50) / 1000)
    tilt = 10 ** (random.uniform(-3, 3) * octaves / 20)  # -3 to 3 dB per octave
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(echo, size) * tilt, size)[: len(dry)]
    noise = np.fft.rfft(random.standard_normal(size)) * 10 ** (-random.uniform(0, 6) * octaves / 20)
    hiss = np.fft.irfft(noise, size)[: len(dry)]
    hiss *= np.sqrt((wet**2).mean() / (hiss**2).mean()) * 10 ** (-random.uniform(15, 40) / 20)
    mixed = wet + hiss
    level = random.uniform(0.2, 0.9) / max(float(np.abs(mixed).max()), 1e-9)
    return (mixed * level).astype(np.float32)
