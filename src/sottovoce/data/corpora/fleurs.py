"""FLEURS, https://arxiv.org/abs/2205.12446."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, optional_lines, peek, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped
from sottovoce.data.sources import read_folder

LOCALE = r"[a-z]{2,3}(?:_[a-z0-9]{2,4})+"
SPLITS = ("train", "dev", "test")
AUDIO = re.compile(rf"(?:(?:.*/)?({LOCALE})/)?(?:audio/)?({'|'.join(SPLITS)})/([^/]+)")
COLUMNS = 7


@CORPORA.register("fleurs")
class Fleurs(Corpus):
    """FLEURS: the same sentences read aloud in 102 languages.

    Layout: a folder for each language (``en_us``; some may be missing), or one such folder, with ``train.tsv``, ``dev.tsv``, ``test.tsv``
    and ``audio/train/*.wav`` and so on. A list has no header; its columns are sentence id, file, raw transcription, transcription,
    characters, samples, gender. ``locale`` is the folder's name, ``language`` its part before the first underscore. ``text`` is the
    transcription (lower case, no punctuation), ``raw_text`` the raw one. ``sentence`` is the sentence id, the same in all languages; it
    links translations. The corpus has no speaker labels.
    """

    def matches(self, folder: Path) -> bool:
        folder_locale, language = _own_locale(folder), peek(folder, LOCALE)
        return (bool(folder_locale) and _is_language(folder)) or (language is not None and _is_language(language))

    def read(self, folder: Path) -> Recordings:
        folder_locale = _own_locale(folder) if _is_language(folder) else ""
        skipped: list[Skipped] = []
        lists: dict[tuple[str, str], dict[str, dict[str, str]]] = {}  # (locale, split) -> file -> fields
        listed: dict[str, str] = {}

        def describe(name: str) -> dict[str, str]:
            parts = AUDIO.fullmatch(name)
            if parts is None or not (parts[1] or folder_locale):
                return {}
            locale, split, file = parts[1] or folder_locale, parts[2], parts[3]
            if (locale, split) not in lists:
                home = folder / name[: parts.start(2)].removesuffix("audio/")
                lists[locale, split] = by_file = {}
                for where, line in optional_lines(home / f"{split}.tsv", skipped):
                    cells = line.split("\t")
                    if len(cells) != COLUMNS:
                        skipped.append(row(where, MALFORMED))
                        continue
                    by_file[cells[1]] = _fields(locale, split, cells)
                    listed[name[: parts.start(3)] + cells[1]] = where
            return lists[locale, split].get(file, {})

        recordings = labelled(read_folder(folder), describe)
        recordings.skipped += skipped + missing(listed, (item.id for item in recordings))
        return recordings


def _fields(locale: str, split: str, cells: list[str]) -> dict[str, str]:
    fields = {"split": split, "language": locale.partition("_")[0], "locale": locale, "sentence": cells[0]}
    values = {"text": cells[3].strip(), "raw_text": cells[2].strip(), "gender": cells[6].strip().lower()}
    return {**fields, **{key: value for key, value in values.items() if value}}


def _own_locale(folder: Path) -> str:
    """The locale that names the folder, possibly behind a link; empty for another folder."""
    return next((name for name in (folder.absolute().name, folder.resolve().name) if re.fullmatch(LOCALE, name)), "")


def _is_language(folder: Path) -> bool:
    return any((folder / f"{split}.tsv").is_file() and (folder / "audio" / split).is_dir() for split in SPLITS)
