"""VoxCeleb1, https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, optional_lines, peek, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped, Trial
from sottovoce.data.sources import read_folder

SPEAKER = r"id1\d{4}"  # speakers of VoxCeleb2 begin with id0
PARTS = {"dev": "dev", "test": "test", "vox1_dev_wav": "dev", "vox1_test_wav": "test"}
TEST_SPEAKERS = range(10270, 10310)  # the official test speakers, for folders that mix dev and test
SPLITS = {"1": "train", "2": "dev", "3": "test"}
TRIALS = (
    "voxceleb1_test_v2.txt",
    "veri_test2.txt",
    "veri_test.txt",
)  # the cleaned list under its two names, then the original list


@CORPORA.register("voxceleb1")
class VoxCeleb1(Corpus):
    """VoxCeleb1: speakers, the identification splits and the verification trials.

    Layout: ``dev/wav/id*/video/*.wav`` and ``test/wav/...`` (also ``vox1_dev_wav`` and ``vox1_test_wav``), or both in one ``wav/id*``. The
    lists, which are a separate download, are in the folder or in ``meta``. ``split`` comes from ``iden_split.txt``, else from the part
    (dev is train). Trials come from the first of ``voxceleb1_test_v2.txt``, ``veri_test2.txt`` and ``veri_test.txt``. ``part`` is dev or
    test; they share no speaker.
    """

    def matches(self, folder: Path) -> bool:
        return any(peek(folder / part / "wav", SPEAKER) for part in ("", *PARTS))

    def read(self, folder: Path) -> Recordings:
        skipped: list[Skipped] = []
        listed, splits = _splits(_list(folder, ("iden_split.txt",)), skipped)

        def describe(name: str) -> dict[str, str]:
            speaker = name.split("/")[-3] if name.count("/") >= 2 else ""
            if not re.fullmatch(SPEAKER, speaker):
                return {}
            part = PARTS.get(name.partition("/")[0]) or ("test" if int(speaker[2:]) in TEST_SPEAKERS else "dev")
            split = splits.get(_key(name), "") if splits else {"dev": "train", "test": "test"}[part]
            fields = {"speaker": speaker, "part": part}
            return {**fields, "split": split} if split else fields

        recordings = labelled(read_folder(folder), describe)
        ids = {_key(item.id): item.id for item in recordings if item.fields}
        recordings.skipped += skipped + missing(listed, ids, lambda key: key.partition("/")[0])
        _add_trials(recordings, _list(folder, TRIALS), ids)
        return recordings


def _list(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((place / name for name in names for place in (folder, folder / "meta") if (place / name).is_file()), None)


def _key(name: str) -> str:
    """``speaker/video/number``: the name of a recording in the lists, without its suffix."""
    return os.path.splitext("/".join(name.split("/")[-3:]))[0]


def _splits(path: Path | None, skipped: list[Skipped]) -> tuple[dict[str, str], dict[str, str]]:
    """(recording -> where it is listed, recording -> split)."""
    listed, splits = {}, {}
    for where, line in optional_lines(path, skipped) if path else []:
        cells = line.split()
        if len(cells) == 2 and cells[0] in SPLITS:
            listed[_key(cells[1])], splits[_key(cells[1])] = where, SPLITS[cells[0]]
        else:
            skipped.append(row(where, MALFORMED))
    return listed, splits


def _add_trials(recordings: Recordings, path: Path | None, ids: dict[str, str]) -> None:
    trials: list[Trial] = []
    unmatched: list[Skipped] = []
    for where, line in optional_lines(path, recordings.skipped) if path else []:
        cells = line.split()
        if len(cells) != 3 or cells[0] not in ("0", "1"):
            recordings.skipped.append(row(where, MALFORMED))
        elif _key(cells[1]) in ids and _key(cells[2]) in ids:
            trials.append((ids[_key(cells[1])], ids[_key(cells[2])], cells[0] == "1"))
        else:
            unmatched.append(row(where, "trial of a missing recording"))
    recordings.trials = trials
    recordings.skipped += unmatched if trials else []  # without any trial, the test part is missing
