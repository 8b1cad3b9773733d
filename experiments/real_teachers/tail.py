"""What a short silence behind a recording does to Whisper on true lengths, untrained: clips that end within a word, and whole recordings.

    python -m experiments.real_teachers.tail --models FOLDER --speech FOLDER [--model whisper-tiny.en]

Word errors against what the same Whisper writes with its window of 30 s, of test recordings of `librispeech_dev`: the first 5 s of each,
and whole. Texts are compared with Whisper's normaliser.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import soundfile
import torch

from sottovoce.core import ledger
from sottovoce.core.registry import STUDENTS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.evaluation.statistics.metrics import edits
from sottovoce.evaluation.statistics.texts import normalizer
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.hosts.whisper import WhisperHost

FOLDER = Path(__file__).parent
TAILS = (0.0, 0.05, 0.1, 0.2, 0.4)  # seconds
CUT, LONGEST, CLIPS = 5.0, 15.0, 36  # seconds of the clips, most seconds of whole recordings, how many of each
TOKENS = 12  # the most for each second: more are a decoder that repeats itself


def waves(speech: Path, whole: bool) -> list[torch.Tensor]:
    """(1, S) each."""
    every = csv.DictReader((speech / "librispeech_dev/manifest.tsv").open(encoding="utf-8"), delimiter="\t")
    rows = [row for row in every if row["split"] == "test" and CUT <= float(row["seconds"]) <= (LONGEST if whole else 1e9)]
    frames = -1 if whole else round(CUT * SAMPLE_RATE)
    return [torch.from_numpy(soundfile.read(speech / row["path"], frames, dtype="float32")[0])[None] for row in rows[:CLIPS]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--model", default="whisper-tiny.en")
    options = parser.parse_args()
    ledger.commit()
    padded, free = (load_host(options.models / options.model) for _ in range(2))
    assert isinstance(padded, WhisperHost)
    assert isinstance(free, WhisperHost)
    copy = STUDENTS.get("copy")
    free.put(copy(copy.Config(length="any")).build(free.pretrained).eval(), torch.nn.Identity())
    form = normalizer("whisper", "en")
    asked = padded.asked("transcribe", "en")

    def said(host: Host, wave: torch.Tensor) -> list[str]:
        most = round(TOKENS * wave.shape[1] / SAMPLE_RATE)
        return form(host.transcribe(wave, max_new_tokens=most, **asked)[0]).split()

    for whole in (False, True):
        clips = waves(options.speech, whole)
        right = [said(padded, wave) for wave in clips]
        for tail in TAILS:
            free.tail = tail
            found = [edits(words, said(free, wave)) for words, wave in zip(right, clips, strict=True)]
            errors, words = sum(sum(each[:3]) for each in found), sum(each.tokens for each in found)
            equal = sum(not sum(each[:3]) for each in found)
            name = f"tail-{tail:g}s-{'whole' if whole else 'cut'}-{options.model}"
            scores = {"tail": tail, "clips": len(clips), "words": words, "wer": round(100 * errors / words, 2), "equal": equal}
            print(name, scores)
            ledger.write(FOLDER / ledger.RECORDS, {"name": name, **ledger.header("tail"), "scores": scores})


if __name__ == "__main__":
    main()
