"""Trains and measures students by every published method: the same teacher (Moonshine tiny), half of its MACs, as many minutes.

    python -m experiments.methods.run --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR --pace
    python -m experiments.methods.run --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR

The methods of `experiments/real_teachers` are not made again; their records count here too.
"""

from __future__ import annotations

from pathlib import Path

from experiments.minutes import SHARES, Method, Table, main


def fixed(recipe: str) -> Method:
    """A method whose student has the size that its recipe says, about half of the teacher's MACs."""
    return Method(recipe, prunes=False)


def training_free(recipe: str) -> Method:
    """A method that makes no updates; with every share, because it costs next to nothing."""
    return Method(recipe, trains=False, shares=SHARES)


TABLE = Table(
    Path(__file__).parent,
    {
        "training-free": training_free("training-free"),
        "training-free-magnitude": training_free("training-free-magnitude"),
        "training-free-taylor": training_free("training-free-taylor"),
        "training-free-fisher": training_free("training-free-fisher"),
        "training-free-clustering": training_free("training-free-clustering"),
        "movement": Method("movement"),
        "skill": Method("skill", shares=(50, 25)),
        "task-agnostic": Method("task-agnostic"),
        "self-pinching": Method("self-pinching"),
        "hj-pruning": Method("hj-pruning", shares=(50, 25)),
        "distilxlsr": fixed("distilxlsr"),
        "shallow-wide": fixed("shallow-wide"),
        "correlation": fixed("correlation"),
        "effective-wide": fixed("effective-wide"),
        "effective-deleted": fixed("effective-deleted"),
        "robustdistiller": fixed("robustdistiller"),
        "deep-narrow": fixed("deep-narrow"),
        "full-layer-to-layer": fixed("full-layer-to-layer"),
        "interleaved-stacking": fixed("interleaved-stacking"),
        "teacher-fed": fixed("teacher-fed"),
        "effective-deep": fixed("effective-deep"),
        "star": fixed("star"),
        "maskhubert": fixed("maskhubert"),
        "armhubert": fixed("armhubert"),
        "dicehubert": fixed("dicehubert"),
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE)
