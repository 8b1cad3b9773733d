"""CoVoST 2, https://arxiv.org/abs/2007.10310."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, peek, required_lines, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped
from sottovoce.data.sources import read_folder

LIST = r"covost_v2\.([A-Za-z-]+)_([A-Za-z-]+)\.(train|dev|test)\.tsv"
CLIPS = "clips"
COLUMNS = ("path", "sentence", "translation", "client_id")


@CORPORA.register("covost2")
class Covost2(Corpus):
    """CoVoST 2: recordings of Common Voice and their translations.

    Layout: the folder of one language of Common Voice 4, with ``clips`` and lists such as ``covost_v2.fr_en.train.tsv``, which the corpus's
    ``get_covost_splits.py`` writes. ``text`` is the sentence; ``translation_en`` is its English translation, and so on. If all lists have
    the same target language, ``translation`` is set too. A clip that is not listed has no fields.
    """

    def matches(self, folder: Path) -> bool:
        return (folder / CLIPS).is_dir() and peek(folder, LIST) is not None

    def read(self, folder: Path) -> Recordings:
        lists = sorted((path, re.fullmatch(LIST, path.name)) for path in folder.glob("covost_v2.*.tsv"))
        named = [(path, parts) for path, parts in lists if parts is not None]
        alone = len({parts[2] for _, parts in named}) == 1
        labels: dict[str, dict[str, str]] = {}
        listed: dict[str, str] = {}
        skipped: list[Skipped] = []
        for path, parts in named:
            source, target, split = parts.groups()
            for where, values in _rows(path, skipped):
                name = f"{CLIPS}/{values['path']}"
                listed.setdefault(name, where)
                source_fields = {"split": split, "language": source, "text": values["sentence"], "speaker": values["client_id"]}
                target_fields = {
                    f"translation_{target}": values["translation"],
                    **({"translation": values["translation"]} if alone else {}),
                }
                fields = labels.setdefault(name, {key: value for key, value in source_fields.items() if value})
                fields.update({key: value for key, value in target_fields.items() if value})
        recordings = labelled(read_folder(folder), lambda name: labels.get(name, {}))
        recordings.skipped += skipped + missing(listed, (item.id for item in recordings))
        return recordings


def _rows(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (``path:number``, column -> cell). The tsv has no quotes; a backslash escapes the next character."""
    advice = f"it must have the columns {', '.join(COLUMNS)}; make it again with get_covost_splits.py"
    (_, head), *lines = required_lines(path, advice) or [("", "")]
    columns = head.split("\t")
    if not set(COLUMNS) <= set(columns):
        raise ValueError(f"{path} does not have the columns of CoVoST: {advice}")
    for where, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            skipped.append(row(where, MALFORMED))
            continue
        yield where, {key: re.sub(r"\\(.)", r"\1", cell).strip() for key, cell in zip(columns, cells, strict=True)}
