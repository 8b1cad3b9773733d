"""QUESST 2014, query by example in six languages, https://speech.fit.vutbr.cz/software/quesst-2014-multilingual-database."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, required_lines, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped
from sottovoce.data.sources import read_folder

ROLES = {"Audio": "doc", "dev_queries": "query", "eval_queries": "query"}
SPLITS = {"dev_queries": "dev", "eval_queries": "test"}
LANGUAGES = ("language_key_utterances.lst", "language_key_dev.lst", "language_key_eval.lst")
NOTHING = "NO_KEYWORD"
ADVICE = "unpack it from quesst14Database.tgz again"


@CORPORA.register("quesst2014")
class Quesst2014(Corpus):
    """QUESST 2014: spoken queries, and documents that contain some of them.

    Layout: ``Audio``, ``dev_queries``, ``eval_queries`` and ``scoring``, which has the lists of languages, ``groundtruth_quesst14_dev``
    and ``_eval``. ``language`` is the corpus's name of the language (SUPERB uses only nnenglish). Queries have the ``split`` dev or test.
    Documents belong to both: they have no split, and their ``matches`` name queries of both.
    """

    def matches(self, folder: Path) -> bool:
        return all((folder / name).is_dir() for name in (*ROLES, "scoring"))

    def read(self, folder: Path) -> Recordings:
        skipped: list[Skipped] = []
        languages, listed = {}, {}
        for path in (folder / "scoring" / name for name in LANGUAGES):
            for where, line in required_lines(path, ADVICE):
                cells = line.split()
                name = "/".join(cells[0].split("/")[-2:])  # listed as quesst14Database/Audio/...
                if len(cells) == 2 and name.partition("/")[0] in ROLES:
                    languages[name], listed[name] = cells[1], where
                else:
                    skipped.append(row(where, MALFORMED))

        audio = read_folder(folder)
        ids = {(ROLES.get(item.id.partition("/")[0]), Path(item.id).stem): item.id for item in audio}
        contained: defaultdict[str, list[str]] = defaultdict(list)  # by document
        for which in ("dev", "eval"):
            for where, doc, query in _truth(folder / "scoring" / f"groundtruth_quesst14_{which}", skipped):
                if ("doc", doc) not in ids or ("query", query) not in ids:
                    skipped.append(row(where, "names a missing recording"))
                elif ids["query", query] not in contained[doc]:
                    contained[doc].append(ids["query", query])

        def describe(name: str) -> dict[str, str]:
            place = name.partition("/")[0]
            if place not in ROLES:
                return {}
            fields = {"role": ROLES[place], "language": languages.get(name, ""), "split": SPLITS.get(place, "")}
            if fields["role"] == "doc":
                fields["matches"] = json.dumps(contained[Path(name).stem])
            return {key: value for key, value in fields.items() if value}

        recordings = labelled(audio, describe)
        recordings.skipped += skipped + missing(listed, (item.id for item in recordings))
        return recordings


def _truth(folder: Path, skipped: list[Skipped]) -> list[tuple[str, str, str]]:
    """(``path:number``, document, query) of the folder's RTTM, whose lines are ``LEXEME document 1 start seconds query lex <NA> <NA>``."""
    path = next(iter(sorted(folder.glob("*.rttm"))), folder / f"{folder.name.removeprefix('groundtruth_')}.rttm")
    entries = []
    for where, line in required_lines(path, ADVICE):
        cells = line.split()
        if cells[0] != "LEXEME":
            continue
        if len(cells) < 6:
            skipped.append(row(where, MALFORMED))
        elif cells[5] != NOTHING:
            entries.append((where, cells[1], cells[5]))
    return entries
