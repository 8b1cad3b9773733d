"""Time and memory of CoLLD's update against plain layer-to-layer distillation at the same shape.

    python benchmarks/colld_step.py --out results/colld-step.json

Random weights: a Conformer teacher of 12 layers, 512 wide, on a filter bank; a student of 12 layers, 256 wide; a batch of 4 x 10 s, two
threads, float32. Everything but the objective is the same: teacher without gradient, student forward and backward, clip, AdamW.

- layer-to-layer: L1 and cosine at every frame of every layer, nothing masked.
- contrast: CoLLD as in its recipe, 100 distractors an utterance.
- contrast-all: all other masked frames of the utterance as distractors.
- distance-masked: L1 and cosine at masked frames, for what the mask alone costs.

Each runs in a process of its own, in turns; peak_gib is the process's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROWS, SECONDS, THREADS = 4, 10.0, 2
CONTROLS = {
    "layer-to-layer": ("objectives.colld.mask=false", "objectives.colld.hidden=distance"),
    "contrast": (),
    "contrast-all": ("objectives.colld.distractors=0",),
    "distance-masked": ("objectives.colld.hidden=distance",),
}


def worker(name: str, steps: int) -> None:
    from sottovoce.encoder import Encoder
    from sottovoce.encoder.packed import fastest
    from sottovoce.objectives.base import Shape
    from sottovoce.students.random import Random
    from sottovoce.train.learner import Learner
    from sottovoce.train.recipe import load_recipe
    from sottovoce.types import Batch, Features

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    wide, narrow = (
        Random(Random.Config(dim=dim, heads=8, ffn_dim=4 * dim, layer="conformer", frontend="fbank", dropout=0.0)).shape()
        for dim in (512, 256)
    )
    teacher = fastest(Encoder(wide).reset_parameters().eval().requires_grad_(False))
    recipe = load_recipe("colld", CONTROLS[name])
    learner = Learner(
        Encoder(narrow).reset_parameters(), recipe.objectives, Shape(wide.dim, len(wide.layers)), recipe.masking
    ).train()
    weights = list(learner.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    batch = Batch(torch.randn(ROWS, round(SECONDS * 16_000)))

    def teach(given: Batch, mask: Any, taps: bool) -> Features:
        found: Features = teacher(given.wave, given.lengths, taps=taps)
        return found

    def step() -> None:
        drawn = learner.draw(batch)
        with torch.no_grad():
            targets = learner.targets(drawn, teach)
        loss = learner(drawn, targets)["colld"]
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": [round(t, 3) for t in times], "peak_gib": round(peak, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=list(CONTROLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per round")
    parser.add_argument("--out", type=Path, default=Path("results/colld-step.json"))
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps)
        return
    found: dict[str, Any] = {name: {"seconds": [], "peak_gib": 0.0} for name in CONTROLS}
    for _ in range(options.rounds):
        for name, row in found.items():
            command = [sys.executable, __file__, "--worker", name, "--steps", str(options.steps)]
            got = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            row["seconds"] += got["seconds"]
            row["peak_gib"] = max(row["peak_gib"], got["peak_gib"])
            print(name, got, flush=True)
    from sottovoce import ledger

    for row in found.values():
        row["median"] = round(statistics.median(row["seconds"]), 3)
        row["times_layer_to_layer"] = round(row["median"] / found["layer-to-layer"]["median"], 3)
    shape = {"rows": ROWS, "seconds": SECONDS, "teacher": "12 x 512 Conformer", "student": "12 x 256 Conformer"}
    ledger.write(options.out, {**ledger.header("colld-step"), "threads": THREADS, "shape": shape, "results": found})
    print({name: (row["times_layer_to_layer"], row["peak_gib"]) for name, row in found.items()})


if __name__ == "__main__":
    main()
