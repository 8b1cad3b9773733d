"""Fluent Speech Commands, https://arxiv.org/abs/1904.03670."""

from __future__ import annotations

import io
import json
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, required, row
from sottovoce.data.files import open_regular
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.manifests import read_lines, split_rows
from sottovoce.data.recording import Recordings
from sottovoce.data.sources import read_folder

TABLES = {"train_data.csv": "train", "valid_data.csv": "dev", "test_data.csv": "test"}
SLOTS = ("action", "object", "location")
COLUMNS = {"path", "speakerId", "transcription", *SLOTS}
ADVICE = "unpack it from the corpus's archive again"


@CORPORA.register("fluent_speech_commands")
class FluentSpeechCommands(Corpus):
    """Fluent Speech Commands: intents of an action, an object and a location.

    Layout: ``data/train_data.csv``, ``valid_data.csv``, ``test_data.csv`` and ``wavs/speakers/*/*.wav``.
    """

    def matches(self, folder: Path) -> bool:
        return (folder / "wavs").is_dir() and any(_has_columns(folder / "data" / name) for name in TABLES)

    def read(self, folder: Path) -> Recordings:
        listed: dict[str, str] = {}
        labels: dict[str, dict[str, str]] = {}
        skipped = []
        for name, split in TABLES.items():
            path = folder / "data" / name
            rows = split_rows(enumerate(read_lines(required(path, ADVICE)), 1), ",")
            _, head = next(rows, (0, ""))
            if not COLUMNS.issubset(head):
                raise ValueError(f"{path} must have the columns {', '.join(sorted(COLUMNS))}; {ADVICE}")
            for number, cells in rows:
                if isinstance(head, str) or isinstance(cells, str) or len(cells) != len(head):
                    skipped.append(row(f"{path}:{number}", MALFORMED))
                    continue
                values = dict(zip(head, cells, strict=True))
                listed[values["path"]] = f"{path}:{number}"
                labels[values["path"]] = {
                    "split": split,
                    "speaker": values["speakerId"],
                    "text": values["transcription"],
                    "language": "en",
                    "intent": json.dumps({slot: values[slot] for slot in SLOTS}, ensure_ascii=False),
                }
        recordings = labelled(read_folder(folder), lambda name: labels.get(name, {}))
        recordings.skipped += skipped + missing(listed, (item.id for item in recordings))
        return recordings


def _has_columns(path: Path) -> bool:
    """Whether the path is a table of this corpus; other corpora have ``data`` and ``wavs`` too."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as stream:
            _, head = next(split_rows([(1, stream.readline(1000).strip())], ","), (0, ""))
            return COLUMNS.issubset(head)
    except (OSError, UnicodeDecodeError):
        return False
