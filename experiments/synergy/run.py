"""Trains and measures the grid of Kumar C et al. 2025 (arXiv 2502.05837) on Moonshine tiny at half of its encoder's MACs: gates or low
rank, with or without distillation, before recognition or jointly with it, whole recordings or chunks.

    python -m experiments.synergy.run --teacher MOONSHINE --train english.tsv --speech FOLDER --work DIR

All have equal updates, not equal minutes. The control without distillation predicts clusters of masked frames before recognition
(`masked_prediction`), and learns recognition alone where both are joined.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from experiments.minutes import Method, Table, main

UPDATES = 800
WAYS = {"l0": "shrink", "low-rank": "recover"}  # way -> the stage of its recipe that makes the student smaller, or mends it
LEARNS = {
    ("kd", "before"): "layer_to_layer",
    ("kd", "jointly"): "layer_to_layer,task_loss",
    ("alone", "before"): "masked_prediction",
    ("alone", "jointly"): "task_loss",
}
CONTEXTS = {"whole": (), "chunks": ("context.chunk=[0.312]", "context.left=[1.992]")}

TABLE = Table(
    Path(__file__).parent,
    {
        f"{way}-{teacher}-{when}-{context}": Method(way, (f"stages.{stage}.objectives=[{names}]", *CONTEXTS[context]))
        for context, ((teacher, when), names), (way, stage) in product(CONTEXTS, LEARNS.items(), WAYS.items())
    },
)

if __name__ == "__main__":
    main(__doc__, TABLE, UPDATES)
