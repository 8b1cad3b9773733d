"""What an update costs on a GPU, stage by stage: audio seconds per second, share of the peak, memory; and the full schedule's hours.

    python benchmarks/gpu/train_throughput.py
    python benchmarks/gpu/train_throughput.py --device cpu --shapes tiny --seconds 4 --updates 2     # tries the script out anywhere

Random weights and audio, bfloat16 autocast, teacher in bfloat16, the objective, clipping and optimiser of the recipe `dphubert`. Stages:
gates as they start; gates near the target, closed units skipped (as training does); the same after live cutting; the second step, on
the cut student; each with the teacher eager and compiled (the student changes shape with every sample of the gates; in the second step
it is compiled, too). The full schedule is DPHuBERT's: 50,000 and 25,000 updates of 640 s of audio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from train_step import gates as late_gates

from sottovoce.core import ledger
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.layer_to_layer import LayerToLayer
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, Lagrangian, encoder_cost, shrink, total, units_to_keep
from sottovoce.students.random import Random
from sottovoce.timing.machine import header
from sottovoce.train import optim
from sottovoce.train.stages.train import Train

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}  # dense bfloat16 FLOP/s, from the makers' data sheets
SCHEDULE = {"step 1": 50_000, "step 2": 25_000}
BATCH = 640.0
CONFORMER = {"dim": 1024, "depth": 24, "heads": 16, "ffn_dim": 4096, "layer": "conformer", "frontend": "fbank", "dropout": 0.0}
SMALL = {"dim": 48, "depth": 2, "heads": 4, "ffn_dim": 96, "conv_dims": (24,) * 7, "position_groups": 4, "dropout": 0.0}
SHAPES: dict[str, dict[str, Any]] = {"hubert-base": {"dropout": 0.0}, "w2v-bert-2.0": CONFORMER, "tiny": SMALL}


def students(config: EncoderConfig, sparsity: float) -> dict[str, tuple[nn.Module, Budget | None]]:
    """The student in every stage, and its budget while it has gates."""
    units = ("head", "ffn", "glu") if config.frontend.fbank is not None else ("conv", "head", "ffn")

    def gated(late: bool) -> tuple[GatedEncoder, Budget]:
        made = GatedEncoder(Encoder(config).reset_parameters(), units)
        if late:
            made.gates = late_gates(made.plan, sparsity)
        everything = Budget(BudgetConfig("params", 1.0), config, made.plan)
        return made, with_keep(everything, max(1 - sparsity, 1.1 * everything.lowest()))

    early, late, live = gated(False), gated(True), gated(True)
    kept = units_to_keep(live[0], with_keep(live[1], 0.01), 0.05)
    assert kept is not None
    smaller = shrink(live[0], kept)
    return {
        "step 1, first updates": early,
        "step 1, near the target": late,
        "step 1, near the target, cut live": (smaller, live[1].of(smaller.encoder.config, smaller.plan)),
        "step 2": (late[0].cut(), None),
    }


def with_keep(budget: Budget, keep: float) -> Budget:
    made = budget.of(budget.encoder, budget.plan)
    made.config = replace(budget.config, keep=keep)
    return made


def updates(
    teacher: nn.Module, student: nn.Module, budget: Budget | None, dims: tuple[int, int], batch: Batch, depth: int
) -> Callable[[], None]:
    """One update of DPHuBERT."""
    device = batch.wave.device
    objective = LayerToLayer(LayerToLayer.Config(), EncoderShape(dims[0], depth), EncoderShape(dims[1], depth)).to(device)
    lagrangian = Lagrangian().to(device)
    gates = list(student.gates.parameters()) if isinstance(student, GatedEncoder) else []
    plain = [p for p in [*student.parameters(), *objective.parameters()] if not any(p is gate for gate in gates)]
    groups = [optim.group("weights", plain, 2e-4), optim.group("gates", gates, 0.02)]
    groups.append(optim.group("multipliers", lagrangian.parameters() if gates else [], 0.02, maximize=True))
    optimizer = optim.make_optimizer(groups, Train.Config(steps=10, lr=2e-4))

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                theirs = teacher(batch.wave)
            ours = student(batch.wave)
            frames = ours.valid()
            loss = objective(ours, theirs, frames, batch)
        (loss.total / objective.denominator(frames, batch)).backward()
        if isinstance(student, GatedEncoder) and budget is not None:
            lagrangian(budget.sparsity(student.gates), budget.goal).backward()
        optim.clip(optimizer, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], None], count: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of an update after three to warm up, and the peak of memory in GiB (0 on a CPU)."""
    cuda = device.type == "cuda"
    for _ in range(3):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    took = []
    for _ in range(count):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return statistics.median(took), torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    device = torch.device(options.device)
    config = Random(Random.Config(**SHAPES[name])).shape()
    rows = max(1, round(options.seconds / options.clip))
    wave: Tensor = 0.1 * torch.randn(rows, round(options.clip * 16_000), device=device)
    seconds, found = rows * options.clip, []
    theirs = float(total(encoder_cost(config, seconds=options.clip)).macs)
    for compiled in (False, True) if device.type == "cuda" else (False,):
        teacher: Any = Encoder(config).reset_parameters().eval().requires_grad_(False).to(device, torch.bfloat16)
        if compiled:
            teacher = torch.compile(teacher)
        for stage, (student, budget) in students(config, options.sparsity).items():
            student = student.to(device).train()
            shape = student.encoder.config if isinstance(student, GatedEncoder) else student.config  # type: ignore[union-attr]
            ours = float(total(encoder_cost(shape, seconds=options.clip)).macs)
            run = torch.compile(student) if compiled and budget is None else student
            try:
                took, memory = timed(
                    updates(teacher, run, budget, (shape.dim, config.dim), Batch(wave), len(config.layers)),
                    options.updates,
                    device,
                )
            except torch.OutOfMemoryError:
                found.append({"shape": name, "stage": stage, "compiled": compiled, "failed": "out of memory"})
                continue
            flops = 2 * seconds * (theirs + 3 * ours)
            peak = next(
                (value for card, value in PEAK.items() if device.type == "cuda" and card in torch.cuda.get_device_name()), None
            )
            row = {"shape": name, "stage": stage, "compiled": compiled, "seconds_per_update": took, "audio_per_s": seconds / took}
            row |= {
                "memory_gib": memory,
                "mfu_at_most": flops / took / peak if peak else None,
                "macs_per_s": {"teacher": theirs, "student": ours},
            }
            found.append(row)
            print(json.dumps(row), flush=True)
            del student, run
    return found


def schedule(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hours of DPHuBERT's two steps on one card, for each shape and way: step 1 at the speed near its target, then step 2."""
    made = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        for compiled in (False, True):
            speed = {
                row["stage"]: row.get("audio_per_s") for row in rows if row["shape"] == shape and row["compiled"] == compiled
            }
            for first in ("step 1, near the target", "step 1, near the target, cut live"):
                if speed.get(first) and speed.get("step 2"):
                    hours = sum(
                        SCHEDULE[name] * BATCH / speed[stage] / 3600 for name, stage in (("step 1", first), ("step 2", "step 2"))
                    )
                    made.append({"shape": shape, "compiled": compiled, "first": first, "hours": hours})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / ledger.RECORDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", default=["hubert-base", "w2v-bert-2.0"], choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=160.0, help="audio per update")
    parser.add_argument("--clip", type=float, default=10.0)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--updates", type=int, default=10)
    options = parser.parse_args()
    if options.device == "cpu":
        options.clip = min(options.clip, options.seconds)
    rows = [row for name in options.shapes for row in measure(name, options)]
    card = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    found = {
        "name": "gpu-throughput",
        **header("gpu-throughput", torch.get_num_threads()),
        "card": card,
        "seconds_per_update": options.seconds,
        "rows": rows,
        "schedule": schedule(rows),
    }
    ledger.write(options.out, found)
    print(json.dumps(found["schedule"], indent=1))


if __name__ == "__main__":
    main()
