"""Trains and measures students of Whisper tiny.en, which hear recordings as long as they are: length alone, and half of the MACs.

    python -m experiments.real_teachers.whisper_tiny --teacher WHISPER_TINY_EN --train english.tsv --speech FOLDER --work DIR --pace
    python -m experiments.real_teachers.whisper_tiny --teacher WHISPER_TINY_EN --train english.tsv --speech FOLDER --work DIR

The teacher hears its window of 30 s. Its answers are computed once and kept; the minutes are those of training alone.
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import WHOLE, Method, Table, main

ANY = ("student.length=any",)

TABLE = Table(
    Path(__file__).parent,
    {
        "tiny-minitron": Method("minitron", ANY, kept=True),
        "tiny-liteasr": Method("liteasr", ANY, trains=False),
        "tiny-any-length": Method("tiny-any-length", prunes=False, shares=(WHOLE,), kept=True),
        "tiny-liteasr-repaired": Method("liteasr-repaired", ANY, kept=True),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE)
