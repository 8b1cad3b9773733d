"""A student's update with oneDNN's matrix products against PyTorch's own, on batches of one size and of sizes that change.

    python benchmarks/products.py

The student: the Conformer of `pretrain-conformer`, random weights; 12 s of noise a batch; forward, backward, clip, AdamW; one
thread, float32.
Which is faster depends on the processor (`encoder.kernels`) and on sizes, because oneDNN prepares itself anew for each. In processes
of their own, in turns.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Callable

import torch
import turns
from torch import Tensor

SECONDS, RATE = 12.0, 16_000
WORKERS = [f"{kind}-{sizes}" for sizes in ("one-size", "many-sizes") for kind in ("onednn", "torch")]


def batches(many: bool) -> Callable[[], Tensor]:
    """As many rows as `SECONDS` hold, of 3 s, or of 0.5 to 6 s."""
    draw = random.Random(0)

    def batch() -> Tensor:
        samples = draw.randrange(RATE // 2, 6 * RATE, 320) if many else 3 * RATE
        return torch.randn(max(1, int(SECONDS * RATE) // samples), samples)

    return batch


def worker(name: str, steps: int) -> None:
    from sottovoce.core.registry import STUDENTS
    from sottovoce.encoder import Encoder
    from sottovoce.train.recipe import load_recipe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ["SOTTOVOCE_KERNELS"] = name.split("-")[0]  # for every computation
    chosen = load_recipe("pretrain-conformer", []).student
    encoder: Encoder = STUDENTS.get(chosen.name)(chosen.config).build(None).train()
    weights = list(encoder.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    batch = batches(name.endswith("many-sizes"))

    def loss() -> Tensor:
        return torch.stack([x.square().mean() for x in encoder(batch()).hidden]).sum()

    turns.timed(turns.update(loss, weights, optimizer), steps)


def main() -> None:
    options = turns.options(__doc__, WORKERS, steps=12).parse_args()
    if options.worker:
        worker(options.worker, options.steps)
        return
    found = turns.in_turns(WORKERS, options.rounds)
    from sottovoce.core import ledger
    from sottovoce.timing.machine import header

    ratio = {
        sizes: round(
            statistics.fmean(found[f"onednn-{sizes}"]["seconds"]) / statistics.fmean(found[f"torch-{sizes}"]["seconds"]), 2
        )
        for sizes in ("one-size", "many-sizes")
    }
    ledger.write(
        options.out,
        {"name": "products", **header("products", 1), "threads": 1, "results": found, "onednn_times_torch": ratio},
    )
    print(ratio)


if __name__ == "__main__":
    main()
