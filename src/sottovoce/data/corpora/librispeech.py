"""LibriSpeech, https://www.openslr.org/12."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, optional_lines, peek, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped
from sottovoce.data.sources import read_folder

SUBSETS = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip
UTTERANCE = re.compile(r"(?:(.*)/)?(\d+)/(\d+)/(\2-\3-\d+)\.\w+")


@CORPORA.register("librispeech")
class LibriSpeech(Corpus):
    """LibriSpeech: transcripts and speakers.

    Layout: a folder with ``train-clean-100`` and so on (some may be missing), the folder above ``LibriSpeech``, or one subset; in it
    ``speaker/chapter/*.flac`` with a ``.trans.txt`` for each chapter. ``subset`` is the subset's name, ``split`` its first word.
    """

    def matches(self, folder: Path) -> bool:
        within = (place / subset for place in (folder, folder / "LibriSpeech") for subset in SUBSETS)
        return any(_is_subset(place) for place in within) or (bool(_own_subset(folder)) and _is_subset(folder))

    def read(self, folder: Path) -> Recordings:
        folder_subset = _own_subset(folder)
        texts: dict[str, dict[str, str]] = {}  # chapter -> utterance -> text
        skipped: list[Skipped] = []

        def describe(name: str) -> dict[str, str]:
            parts = UTTERANCE.fullmatch(name)
            subset = folder_subset or (parts[1] or "").rpartition("/")[2] if parts else ""
            if parts is None or subset not in SUBSETS:
                return {}
            chapter = Path(name).parent.as_posix()
            if chapter not in texts:
                texts[chapter] = _texts(folder / chapter / f"{parts[2]}-{parts[3]}.trans.txt", skipped)
            fields = {"split": subset.partition("-")[0], "subset": subset, "speaker": parts[2], "language": "en"}
            return {**fields, "text": texts[chapter][parts[4]]} if parts[4] in texts[chapter] else fields

        recordings = labelled(read_folder(folder), describe)
        recordings.skipped += skipped
        return recordings


def _own_subset(folder: Path) -> str:
    """The subset that names the folder, possibly behind a link; empty for another folder."""
    return next((name for name in (folder.absolute().name, folder.resolve().name) if name in SUBSETS), "")


def _is_subset(folder: Path) -> bool:
    """Whether the files are named as in LibriSpeech; LibriTTS has the same folders but other file names."""
    speaker = peek(folder, r"\d+")
    chapter = speaker and peek(speaker, r"\d+")
    return bool(speaker and chapter and peek(chapter, rf"{speaker.name}-{chapter.name}-\d{{4}}\.\w+"))


def _texts(path: Path, skipped: list[Skipped]) -> dict[str, str]:
    texts = {}
    for where, line in optional_lines(path, skipped):
        name, space, text = line.partition(" ")
        if space and name.startswith(path.name.removesuffix(".trans.txt")):
            texts[name] = text.strip()
        else:
            skipped.append(row(where, MALFORMED))
    return texts
