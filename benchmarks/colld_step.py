"""Time and memory of CoLLD's update against plain layer-to-layer distillation at the same shape.

    python benchmarks/colld_step.py

Random weights: a Conformer teacher of 12 layers, 512 wide, on a filter bank; a student of 12 layers, 256 wide; a batch of 4 x 10 s, two
threads, float32. Everything but the objective is the same: teacher without gradient, student forward and backward, clip, AdamW.

- layer-to-layer: L1 and cosine at every frame of every layer, nothing masked.
- contrast: CoLLD as in its recipe, 100 distractors an utterance.
- contrast-all: all other masked frames of the utterance as distractors.
- distance-masked: L1 and cosine at masked frames, for what the mask alone costs.

Each runs in a process of its own, in turns; peak_gib is the process's.
"""

from __future__ import annotations

import torch
import turns
from torch import Tensor

ROWS, SECONDS, THREADS = 4, 10.0, 2
CONTROLS = {
    "layer-to-layer": ("objectives.colld.mask=false", "objectives.colld.hidden=distance"),
    "contrast": (),
    "contrast-all": ("objectives.colld.distractors=0",),
    "distance-masked": ("objectives.colld.hidden=distance",),
}


def worker(name: str, steps: int) -> None:
    from sottovoce.core.types import Batch
    from sottovoce.encoder import Encoder
    from sottovoce.hub.pretrained import Pretrained
    from sottovoce.students.random import Random
    from sottovoce.train.learner import Learner
    from sottovoce.train.recipe import load_recipe
    from sottovoce.train.targets import Teachers
    from sottovoce.train.teachers import TeacherSettings
    from sottovoce.train.teachers.encoder import EncoderTeacher

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    wide, narrow = (
        Random(Random.Config(dim=dim, heads=8, ffn_dim=4 * dim, layer="conformer", frontend="fbank", dropout=0.0)).shape()
        for dim in (512, 256)
    )
    big = Pretrained(Encoder(wide).reset_parameters(), wide, "random", False, "random")
    teacher = EncoderTeacher(EncoderTeacher.Config(), TeacherSettings(torch.device("cpu"), pack=True), big)
    recipe = load_recipe("colld", CONTROLS[name])
    teachers = Teachers({"teacher": teacher}, "teacher")
    learner = Learner(Encoder(narrow).reset_parameters(), recipe.objectives, teachers, recipe.masking).train()
    weights = list(learner.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    batch = Batch(torch.randn(ROWS, round(SECONDS * 16_000)))

    def loss() -> Tensor:
        drawn = learner.draw(batch)
        return learner.total(learner(drawn, learner.targets(drawn)), learner.denominators(drawn))

    turns.timed(turns.update(loss, weights, optimizer), steps)


def main() -> None:
    options = turns.options(__doc__, CONTROLS, steps=3).parse_args()
    if options.worker:
        worker(options.worker, options.steps)
        return
    found = turns.in_turns(CONTROLS, options.rounds)
    from sottovoce.core import ledger
    from sottovoce.timing.machine import header

    for row in found.values():
        row["times_layer_to_layer"] = round(row["median"] / found["layer-to-layer"]["median"], 3)
    shape = {"rows": ROWS, "seconds": SECONDS, "teacher": "12 x 512 Conformer", "student": "12 x 256 Conformer"}
    ledger.write(
        options.out, {"name": "colld-step", **header("colld-step", THREADS), "threads": THREADS, "shape": shape, "results": found}
    )
    print({name: (row["times_layer_to_layer"], row["peak_gib"]) for name, row in found.items()})


if __name__ == "__main__":
    main()
