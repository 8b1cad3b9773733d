"""Trains students of Whisper base in all languages at hand, and judges them as CoLLD was judged: recognition and translation into English.

    python -m experiments.real_teachers.whisper_base --teacher WHISPER_BASE --train balanced.tsv --speech FOLDER --work DIR --pace
    python -m experiments.real_teachers.whisper_base --teacher WHISPER_BASE --train balanced.tsv --speech FOLDER --work DIR

The teacher hears its window of 30 s. Its answers are computed once and kept; the minutes are those of training alone. Students hear
recordings as long as they are. All have half of the teacher's MACs on recordings of the same length.
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import Method, Table, main

ANY = ("student.length=any",)
HALF = {50: ("student.dim=360", "student.heads=5", "student.ffn_dim=1440", "student.conv_dims=[352]")}
JUDGES = ["fillets", "fillets-translated", "tuxpaint", "tuxpaint-translated", "librispeech"]


def narrow(recipe: str, *overrides: str) -> Method:
    return Method(recipe, (*ANY, *overrides), prunes=False, sizes=HALF, kept=True)


TABLE = Table(
    Path(__file__).parent,
    {
        "base-colld": narrow("colld"),
        "base-plain": narrow("plain"),
        "base-distance": narrow("colld", "objectives.colld.hidden=distance"),
        "base-unmasked": narrow("colld", "objectives.colld.mask=false"),
        "base-dphubert": Method("dphubert", ANY, kept=True),
        "base-minitron": Method("minitron", ANY, kept=True),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE, tasks=JUDGES)
