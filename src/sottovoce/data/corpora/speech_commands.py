"""Google Speech Commands, version 1 (and 2), https://arxiv.org/abs/1804.03209."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, pieces, required_lines, row
from sottovoce.data.decode import BadAudio, header_seconds
from sottovoce.data.recording import Recording, Recordings
from sottovoce.data.sources import read_folder

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
LISTS = {"validation_list.txt": "dev", "testing_list.txt": "test"}


@CORPORA.register("speech_commands")
class SpeechCommands(Corpus):
    """Speech Commands: ten keywords, ``_unknown_`` and ``_silence_``, as in SUPERB's keyword spotting.

    Layout: a folder for each word, ``_background_noise_``, ``validation_list.txt`` and ``testing_list.txt``. ``word`` is the folder,
    ``label`` its class. The noise is cut into pieces of one second, labelled ``_silence_``: the first 80 % of each file are train, then
    10 % dev and 10 % test. The official test set, a folder ``speech_commands_test_set_v0.01`` (version 2: ``v0.02``) in the folder or
    beside it, replaces the testing list: the listed recordings then have no split, and the noise is 90 % train and 10 % dev.
    """

    def matches(self, folder: Path) -> bool:
        return any((folder / name).is_file() for name in LISTS) and all((folder / word).is_dir() for word in KEYWORDS)

    def read(self, folder: Path) -> Recordings:
        advice = "unpack it from the corpus's archive again"
        listed = {line: (where, split) for name, split in LISTS.items() for where, line in required_lines(folder / name, advice)}
        version = "v0.02" if (folder / "backward").is_dir() else "v0.01"
        official = f"speech_commands_test_set_{version}"
        beside = folder.absolute().parent / official
        within = (folder / official).is_dir()
        separate = within or beside.is_dir()

        def describe(name: str) -> dict[str, str]:
            parts = name.split("/")
            if len(parts) == 3 and parts[0] == official:
                return _fields(parts[1], parts[2], "test")
            if len(parts) != 2:
                return {}
            split = listed[name][1] if name in listed else "train"
            return _fields(parts[0], parts[1], "" if separate and split == "test" else split)

        audio = labelled(read_folder(folder), describe)
        recordings = audio.with_items(())
        for item in audio:
            if item.id.startswith(f"{NOISE}/"):
                _add_silence(recordings, item, separate)
            else:
                recordings.append(item)
        recordings.skipped += missing({name: where for name, (where, _) in listed.items()}, (item.id for item in recordings))
        if separate and not within:  # ids are the same as for a test set inside the folder
            tests = labelled(read_folder(beside), lambda name: describe(f"{official}/{name}"))
            recordings.skipped += tests.skipped
            recordings.extend(replace(item, id=f"{official}/{item.id}") for item in tests)
        return recordings


def _fields(word: str, file: str, split: str) -> dict[str, str]:
    fields = {"word": word, "label": word if word in (*KEYWORDS, SILENCE) else UNKNOWN}
    speaker = re.search(r"([0-9a-f]{8})_nohash_", file)
    if speaker:
        fields["speaker"] = speaker[1]
    return {**fields, "split": split} if split else fields


def _add_silence(recordings: Recordings, item: Recording, separate: bool) -> None:
    tenths = ["train"] * 9 + ["dev"] if separate else ["train"] * 8 + ["dev", "test"]
    try:
        parts = pieces(item, header_seconds(item.path))
    except BadAudio as problem:
        recordings.skipped.append(row(item.path, problem.reason))
        return
    for number, part in enumerate(parts):
        fields = {"label": SILENCE, "split": tenths[number * 10 // len(parts)]}
        recordings.append(replace(part, fields=fields))
