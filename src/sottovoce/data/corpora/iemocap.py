"""IEMOCAP, https://sail.usc.edu/iemocap/."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce.core.registry import CORPORA
from sottovoce.data.corpora.base import Corpus, labelled, missing, optional_lines, row
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recordings, Skipped
from sottovoce.data.sources import read_folder

SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
CLASSES = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
UTTERANCE = re.compile(r"Session([1-5])/sentences/wav/(.+)/((Ses\d\d)[FM]_.*_([FM])\w*)\.wav")
TEXT = re.compile(r"(\S+) \[[\d.]+-[\d.]+\]: *(.*)")


@CORPORA.register("iemocap")
class Iemocap(Corpus):
    """IEMOCAP: emotions, in five sessions that are the folds.

    Layout: ``Session1`` to ``Session5``, each with ``sentences/wav``, ``dialog/EmoEvaluation`` and, for ``text``,
    ``dialog/transcriptions``. ``emotion`` is the corpus's label; ``label`` is one of SUPERB's four classes (neu, hap with exc, ang, sad),
    absent for other emotions. ``fold`` is the number of the session; ``speaker`` is the session and F or M. There is no ``split``: each
    fold is the test set once. The complete dialogs under ``dialog/wav`` are listed without fields.
    """

    def matches(self, folder: Path) -> bool:
        sessions = [folder / session for session in SESSIONS if (folder / session / "sentences" / "wav").is_dir()]
        return any((session / "dialog" / "EmoEvaluation").is_dir() for session in sessions)

    def read(self, folder: Path) -> Recordings:
        skipped: list[Skipped] = []
        emotions: dict[str, str] = {}
        listed: dict[str, str] = {}
        texts: dict[str, str] = {}
        for session in (folder / name for name in SESSIONS if (folder / name / "sentences" / "wav").is_dir()):
            dialog = session / "dialog"
            if not (dialog / "EmoEvaluation").is_dir():
                raise ValueError(f"{dialog / 'EmoEvaluation'} is missing; unpack it from the corpus's archive again")
            for path in _files(dialog / "EmoEvaluation"):
                _read_emotions(path, emotions, listed, skipped)
            for path in _files(dialog / "transcriptions"):
                # lines of other forms are breaths and the like
                spoken = (TEXT.fullmatch(line) for _, line in optional_lines(path, skipped))
                texts |= {match[1]: match[2] for match in spoken if match}

        def describe(name: str) -> dict[str, str]:
            match = UTTERANCE.fullmatch(name)
            if not match:
                return {}
            session, _, utterance, speaker, sex = match.groups()
            emotion = emotions.get(utterance, "")
            fields = {
                "fold": session,
                "speaker": speaker + sex,
                "language": "en",
                "emotion": emotion,
                "label": CLASSES.get(emotion, ""),
                "text": texts.get(utterance, ""),
            }
            return {key: value for key, value in fields.items() if value}

        recordings = labelled(read_folder(folder), describe)
        stems = (Path(item.id).stem for item in recordings if item.fields)
        recordings.skipped += skipped + missing(listed, stems)
        return recordings


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


def _read_emotions(path: Path, emotions: dict[str, str], listed: dict[str, str], skipped: list[Skipped]) -> None:
    """Lines such as ``[6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu<TAB>[2.5, 2.5, 2.5]``; other lines are single raters'."""
    for where, line in optional_lines(path, skipped):
        if not line.startswith("["):
            continue
        cells = line.split("\t")
        if len(cells) >= 3 and cells[1].startswith("Ses") and cells[2].strip():
            emotions[cells[1].strip()], listed[cells[1].strip()] = cells[2].strip(), where
        else:
            skipped.append(row(where, MALFORMED))
