"""Trains students of Whisper base in all languages at hand, and judges them as CoLLD was judged: recognition and translation into English.

    python -m experiments.real_teachers.whisper_base --teacher WHISPER_BASE --train balanced.tsv --speech FOLDER --work DIR

The teacher hears its window of 30 s. Its answers are computed once and kept. Students hear recordings as long as they are. All have half of
the teacher's MACs on recordings of the same length, and equal updates. All but DPHuBERT's start from the same cut.
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import Method, Table, main

UPDATES = 800
ANY = "student.length=any"
JUDGES = ["fillets", "fillets-translated", "tuxpaint", "tuxpaint-translated", "librispeech"]


def colld(*overrides: str) -> Method:
    return Method("base-colld", (ANY, *overrides))


TABLE = Table(
    Path(__file__).parent,
    {
        "base-minitron": Method("minitron", (ANY,)),
        "base-colld": colld(),
        "base-dphubert": Method("dphubert", (ANY,)),
        "base-distance": colld("objectives.colld.hidden=distance"),
        "base-unmasked": colld("objectives.colld.mask=false"),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE, UPDATES, JUDGES)
