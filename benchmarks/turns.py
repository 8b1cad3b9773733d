"""What the benchmarks of training updates share: each update is timed in a process of its own, and the processes take turns.

A process each, because the peak of memory is a process's; in turns, so that a noisy machine treats them alike. A script is started once,
and starts itself again for each of its updates in every round.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def options(text: str | None, names: Iterable[str], steps: int) -> argparse.ArgumentParser:
    """The options of every such script. text: its docstring; names: of its updates; steps: the default."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--worker", choices=list(names))
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--steps", type=int, default=steps, help="timed steps per round")
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "records.jsonl")
    return made


def update(loss: Callable[[], Tensor], weights: list[Any], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A training update: forward, backward, clip the gradients of `weights`, step."""

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], None], count: int) -> None:
    """In a worker: one step to warm up, then `count` that are timed. Prints what `in_turns` reads."""
    step()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": [round(t, 3) for t in times], "peak_gib": round(peak, 2)}))


def in_turns(names: Iterable[str], rounds: int) -> dict[str, dict[str, Any]]:
    """This script, with the arguments that it was given, as each worker in turn. For each: all seconds, their median, highest peak."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "peak_gib": 0.0} for name in names}
    for _ in range(rounds):
        for name, row in found.items():
            done = subprocess.run([sys.executable, *sys.argv, "--worker", name], capture_output=True, text=True, check=True)
            got = json.loads(done.stdout.splitlines()[-1])
            row["seconds"] += got["seconds"]
            row["peak_gib"] = max(row["peak_gib"], got["peak_gib"])
            print(name, got, flush=True)
    for row in found.values():
        row["median"] = round(statistics.median(row["seconds"]), 3)
    return found
