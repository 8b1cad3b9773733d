"""LibriMix, https://arxiv.org/abs/2005.11262, and the Kaldi folders of SUPERB's diarization."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, optional_lines, required_lines, row
from sottovoce.data.files import fault
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recording, Recordings, Skipped
from sottovoce.data.sources import read_folder
from sottovoce.data.turns import Turn, read_rttm, turns_text

RATES, MODES = ("wav16k", "wav8k"), ("max", "min")
SUBSETS = {"train-100": "train", "train-360": "train", "dev": "dev", "test": "test"}
MIXTURES = ("mix_clean", "mix_both", "mix_single")
FILE = re.compile(r"wav(16k|8k)/(max|min)/([^/]+)/([^/]+)/([^/]+)\.wav")
SPLITS = ("train", "dev", "test")


@CORPORA.register("librimix")
class LibriMix(Corpus):
    """LibriMix: mixtures of two or three speakers, and their sources.

    Layout: ``wav16k/max/train-100/mix_clean/*.wav`` and so on, as LibriMix's scripts write it. ``part`` is the folder (mix_both, s1, noise,
    ...); ``speaker`` lists the speakers in the order of the sources, separated by a space. There are no speaker turns: for these, run
    LibriMix's ``prepare_diarization.py`` and open the Kaldi folders that it writes.
    """

    def matches(self, folder: Path) -> bool:
        roots = (folder / rate / mode / subset for rate in RATES for mode in MODES for subset in SUBSETS)
        return any((root / mixture).is_dir() for root in roots for mixture in MIXTURES)

    def read(self, folder: Path) -> Recordings:
        return labelled(read_folder(folder), _describe)


def _describe(name: str) -> dict[str, str]:
    match = FILE.fullmatch(name)
    if not match or match[3] not in SUBSETS:
        return {}
    rate, mode, subset, part, mixture = match.groups()
    fields = {"split": SUBSETS[subset], "subset": subset, "part": part, "mode": mode, "rate": rate, "language": "en"}
    speakers = [source.split("-")[0] for source in mixture.split("_")]
    if re.fullmatch(r"s\d", part):
        speakers = speakers[int(part[1]) - 1 :][:1]
    return {**fields, "speaker": " ".join(speakers)} if speakers and part != "noise" else fields


@CORPORA.register("kaldi_diarization")
class KaldiDiarization(Corpus):
    """Kaldi folders with speaker turns, as in SUPERB's diarization on LibriMix.

    Layout: ``train``, ``dev`` and ``test`` (some may be missing), or one such folder. Each has ``wav.scp`` and either ``rttm`` or
    ``segments`` and ``utt2spk``; ``reco2dur`` is optional. The folder's name is the split. Ids are ``split/recording``. ValueError when all
    audio of ``wav.scp`` is missing.
    """

    def matches(self, folder: Path) -> bool:
        return _is_kaldi(folder) or any(_is_kaldi(folder / split) for split in SPLITS)

    def read(self, folder: Path) -> Recordings:
        recordings = Recordings()
        parts = [(folder, "")] if _is_kaldi(folder) else [(folder / split, f"{split}/") for split in SPLITS]
        for place, prefix in parts:
            if place.is_dir():
                _read_part(place, prefix, recordings)
        if not recordings:
            raise ValueError(
                f"none of the audio that wav.scp names in {folder} is there; correct its paths, or prepare the folder again"
            )
        return recordings


def _is_kaldi(folder: Path) -> bool:
    """Whether a folder has turns. With a ``text``, segments are the sentences of a transcribed corpus instead."""
    files = {name for name in ("wav.scp", "rttm", "segments", "utt2spk", "text") if (folder / name).is_file()}
    return {"wav.scp", "rttm"} <= files or ({"wav.scp", "segments", "utt2spk"} <= files and "text" not in files)


def _read_part(folder: Path, prefix: str, recordings: Recordings) -> None:
    advice = "prepare the folder again"
    files = required_lines(folder / "wav.scp", advice)
    turns = _turns(folder, advice, recordings.skipped)
    seconds = dict(_columns(optional_lines(folder / "reco2dur", recordings.skipped), 2, recordings.skipped))
    name = folder.absolute().name
    split = {"split": name} if name in SPLITS else {}
    for where, line in files:
        recording, file = (*line.split(None, 1), "")[:2]
        if not file or file.endswith("|"):
            recordings.skipped.append(row(where, "a command, not a file" if file else MALFORMED))
            continue
        path = _place(folder, file)
        if why := fault(path):
            recordings.skipped.append(row(path, why))
            continue
        fields = dict(split)
        if recording in turns:
            fields["turns"] = turns_text(turns[recording])
            fields["speaker"] = " ".join(sorted({who for _, _, who in turns[recording]}))
        recordings.append(Recording(prefix + recording, path, duration=_seconds(seconds.get(recording)) or None, fields=fields))


def _turns(folder: Path, advice: str, skipped: list[Skipped]) -> dict[str, list[Turn]]:
    if (folder / "rttm").is_file():
        return read_rttm(folder / "rttm", skipped)
    speakers = dict(_columns(required_lines(folder / "utt2spk", advice), 2, skipped))
    turns: dict[str, list[Turn]] = {}
    for where, line in required_lines(folder / "segments", advice):
        cells = line.split()
        start, end = (_seconds(cells[2]), _seconds(cells[3])) if len(cells) == 4 else (None, None)
        if start is None or end is None or cells[0] not in speakers:
            skipped.append(row(where, MALFORMED))
        else:
            turns.setdefault(cells[1], []).append((start, end, speakers[cells[0]]))
    return turns


def _columns(lines: list[tuple[str, str]], count: int, skipped: list[Skipped]) -> list[list[str]]:
    rows = [(where, line.split()) for where, line in lines]
    skipped += [row(where, MALFORMED) for where, cells in rows if len(cells) != count]
    return [cells for _, cells in rows if len(cells) == count]


def _seconds(text: str | None) -> float | None:
    """Seconds as a number; None for anything else."""
    with contextlib.suppress(ValueError):
        value = float(text or "nan")
        return value if 0 <= value < math.inf else None
    return None


def _place(folder: Path, file: str) -> str:
    """Path of an audio file: below the folder, else below its parent, else below the current folder (Kaldi's rule)."""
    places = [os.path.join(place, file) for place in (folder, folder.parent)]
    return next((path for path in places if os.path.isfile(path)), os.path.abspath(file))
