"""Trains and measures students of real recognisers: every method for as long, at the same share of the encoder's MACs.

python -m experiments.real_teachers.students --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR --pace
python -m experiments.real_teachers.students --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import SHARES, Method, Table, main

# Sizes of narrow students of Moonshine tiny, by their share of its MACs: about as many as the budgets of the others.
NARROW = {
    75: ("student.dim=248", "student.heads=7", "student.ffn_dim=960", "student.conv_dims=[240,480]"),
    50: ("student.dim=200", "student.heads=5", "student.ffn_dim=816", "student.conv_dims=[200,400]"),
    25: ("student.dim=136", "student.heads=3", "student.ffn_dim=576", "student.conv_dims=[136,288]"),
}
HOST = ("objectives.host_output.weight=1",)

TABLE = Table(
    Path(__file__).parent,
    {
        "minitron": Method("minitron", shares=SHARES),
        "minitron-rounds": Method("minitron-rounds", shares=(25,)),
        "minitron-varied": Method("minitron-varied"),
        "minitron-fed": Method("minitron-fed", shares=SHARES),
        "dphubert": Method("dphubert", shares=SHARES),
        "liteasr": Method("liteasr", trains=False, shares=SHARES),
        "liteasr-repaired": Method("liteasr-repaired", shares=SHARES),
        "plain": Method("plain", prunes=False, sizes=NARROW),
        "sotto": Method("sotto", shares=(50, 25)),
        "colld": Method("colld", prunes=False, sizes=NARROW),
        "distilhubert": Method("distilhubert", prunes=False),
        "minitron-host": Method("minitron", HOST, shares=SHARES),
        "dphubert-host": Method("dphubert", HOST, shares=SHARES),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE)
