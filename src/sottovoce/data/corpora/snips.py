"""Audio SNIPS: the texts of https://arxiv.org/abs/1805.10190, spoken by sixteen synthetic voices, as SUPERB packs it."""

from __future__ import annotations

import json
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, required_lines, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings
from sottovoce.data.sources import read_folder

LIST = "all.iob.snips.txt"
PARTS = {"train": "train", "valid": "dev", "test": "test"}
# SUPERB's splits share no voice, although each folder holds every voice.
VOICES = {
    "train": ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"),
    "dev": ("Aditi", "Amy", "Geraint", "Nicole"),
    "test": ("Brian", "Emma", "Raveena", "Russell"),
}
SPLIT_OF = {voice: split for split, voices in VOICES.items() for voice in voices}


@CORPORA.register("snips")
class Snips(Corpus):
    """Audio SNIPS: slots and intents.

    Layout: ``all.iob.snips.txt`` and the folders ``train``, ``valid`` and ``test``, with files named ``Voice-snips-train-0.wav``. ``slots``
    is a list of [slot, words] in order; ``part`` is the folder. ``split`` is SUPERB's: eight voices of train, four other voices of valid,
    the last four of test. The other recordings have no split.
    """

    def matches(self, folder: Path) -> bool:
        return (folder / LIST).is_file() and any((folder / part).is_dir() for part in PARTS)

    def read(self, folder: Path) -> Recordings:
        listed: dict[str, str] = {}
        labels: dict[str, dict[str, str]] = {}
        skipped = []
        for where, line in required_lines(folder / LIST, "unpack it from the corpus's archive again"):
            try:
                name, fields = _parse(line)
            except ValueError:
                skipped.append(row(where, MALFORMED))
                continue
            listed[name], labels[name] = where, fields

        def describe(name: str) -> dict[str, str]:
            utterance = Path(name).stem
            fields = labels.get(utterance)
            if fields is None:
                return {}
            part, voice = name.split("/")[0], utterance.split("-")[0]
            split = PARTS.get(part, "")
            fields = {**fields, "speaker": voice, "language": "en", "part": part}
            return {**fields, "split": split} if split and SPLIT_OF.get(voice, split) == split else fields

        recordings = labelled(read_folder(folder), describe)
        stems = (Path(item.id).stem for item in recordings if item.fields)
        recordings.skipped += skipped + missing(listed, stems, lambda name: name.rpartition("-")[0])
        return recordings


def _parse(line: str) -> tuple[str, dict[str, str]]:
    """(name, fields) of a line such as ``Ivy-snips-train-0 BOS PLAY JAZZ EOS<TAB>O O genre PlayMusic``. ValueError for other lines."""
    spoken, _, tagged = line.partition("\t")
    name, *words = spoken.split()
    tags = tagged.split()
    if len(words) < 3 or words[0] != "BOS" or words[-1] != "EOS" or len(tags) != len(words):
        raise ValueError("another form")
    words, tags, intent = words[1:-1], tags[1:-1], tags[-1]
    fields = {"text": " ".join(words), "intent": json.dumps({"intent": intent}, ensure_ascii=False)}
    return name, {**fields, "slots": json.dumps(_slots(words, tags), ensure_ascii=False)}


def _slots(words: list[str], tags: list[str]) -> list[list[str]]:
    """[slot, words] in order. Words with the same tag form one slot; a tag with the prefix ``B-`` starts a new one."""
    slots: list[list[str]] = []
    before = "O"
    for word, tag in zip(words, tags, strict=True):
        slot = tag.removeprefix("B-").removeprefix("I-")
        if tag != "O":
            if slot == before and not tag.startswith("B-"):
                slots[-1][1] += f" {word}"
            else:
                slots.append([slot, word])
        before = slot
    return slots
