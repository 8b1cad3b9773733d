"""How much faster students of HuBERT Base are, on this CPU, and how far each part is from what the CPU can do.

    python benchmarks/speed.py

Random weights: speed depends on shapes only. All in one interleaved run (`sottovoce bench`), 10 s of audio, one at a time, two threads:

- hubert-base: the teacher, on stock transformers (SDPA), which everything is compared with, on our encoder, and prepared for inference.
- reference-shape: the shape of a student of DPHuBERT's code at a quarter of the parameters (23.6M, 432 channels in every convolution).
- latency-25: a quarter of the teacher's predicted latency, every group of units cut alike.
- equal-params: as many parameters as reference-shape, a quarter of the channels, the rest in the layers.
- latency-25-int8: the same with its products in 8 bits, in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import sottovoce
from sottovoce.core import ledger
from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig, LayerConfig, kernels
from sottovoce.encoder.product import product
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.hub.student import save_student
from sottovoce.inference.packed import laid_out
from sottovoce.pruning import Budget, BudgetConfig, Gates, encoder_cost, make_plan, meet_budget, narrow, total
from sottovoce.students.random import Random
from sottovoce.timing.measure import bench
from sottovoce.timing.parts import take_apart
from sottovoce.timing.rounds import median_ms

SECONDS, THREADS, ROUNDS = 10.0, 2, 6
HEADS = (3, 4, 4, 6, 3, 2, 5, 5, 1, 1, 3, 2)  # solved to match the parameters and MACs that the paper gives
UNITS = (641, 635, 625, 1039, 228, 288, 421, 552, 51, 77, 203, 321)


def reference(teacher: EncoderConfig) -> EncoderConfig:
    layers = tuple(
        dataclasses.replace(layer, num_heads=h, ffn_dim=u) for layer, h, u in zip(teacher.layers, HEADS, UNITS, strict=True)
    )
    return dataclasses.replace(with_channels(teacher, 432), layers=layers)


def with_channels(config: EncoderConfig, channels: int) -> EncoderConfig:
    convs = tuple(ConvConfig(channels, conv.kernel, conv.stride) for conv in config.frontend.convs)
    return dataclasses.replace(config, frontend=dataclasses.replace(config.frontend, convs=convs))


def by_latency(teacher: EncoderConfig, keep: float) -> EncoderConfig:
    """The teacher cut to a share of its predicted latency, with gates that know nothing of the units."""
    plan = make_plan(teacher, ("conv", "head", "ffn"))
    gates = Gates(plan)
    with torch.no_grad():
        for values in gates.log_alpha.values():
            values.copy_(torch.linspace(-2, 2, values.numel()).view_as(values))
        report = meet_budget(gates, Budget(BudgetConfig("latency", keep, round_to=16), teacher, plan))
        return narrow(teacher, plan, {name: list(range(count)) for name, count in report.counts.items()})


def with_parameters(teacher: EncoderConfig, channels: int, params: float) -> EncoderConfig:
    """A quarter of the heads, and as many feed-forward units as `params` leave."""
    made = with_channels(teacher, channels)
    heads, best = max(1, teacher.layers[0].num_heads // 4), made
    for units in range(16, teacher.layers[0].ffn_dim, 16):
        layer = LayerConfig(heads, teacher.layers[0].head_dim, units)
        tried = dataclasses.replace(made, layers=(layer,) * len(teacher.layers))
        if float(total(encoder_cost(tried)).params) > params:
            break
        best = tried
    return best


def build(folder: Path) -> dict[str, str]:
    """Name -> folder."""
    torch.manual_seed(0)
    teacher = Random(Random.Config()).shape()
    save_pretrained(folder / "hubert-base", Encoder(teacher).reset_parameters(), "hubert", normalize=False)
    shape = reference(teacher)
    students = {
        "reference-shape": shape,
        "latency-25": by_latency(teacher, 0.25),
        "equal-params": with_parameters(teacher, 128, float(total(encoder_cost(shape)).params)),
    }
    for name, config in students.items():
        save_student(folder / name, Encoder(config).reset_parameters(), normalize=False, teacher="hubert-base")
    shutil.copytree(folder / "latency-25", folder / "latency-25-int8")
    sottovoce.export(folder / "latency-25-int8", precision="int8", seconds=10.0, say=print)
    return {name: str(folder / name) for name in ("hubert-base", *students, "latency-25-int8")}


def limits() -> dict[str, float]:
    """What the machine can do at most: products of large matrices, in float32, bfloat16 and 8-bit integers, and copying in memory."""
    with torch.no_grad():
        x, packed = torch.randn(4096, 1024), laid_out(torch.randn(1024, 1024))
        large = torch.randn(64 << 20)
        there = torch.empty_like(large)
        weight = torch.randn(1024, 1024)
        half, half_weight = x.bfloat16(), weight.bfloat16()
        bytes_, bytes_weight = (torch.randint(-9, 9, shape, dtype=torch.int8) for shape in ((4096, 1024), (1024, 1024)))
        runs: dict[str, Callable[[], object]] = {
            "onednn": lambda: product(x, packed),
            "torch": lambda: F.linear(x, weight),
            "bf16": lambda: F.linear(half, half_weight),
            "int8": lambda: torch._int_mm(bytes_, bytes_weight),
            "copy": lambda: there.copy_(large),
        }
        ms = median_ms(runs, ROUNDS)
    flops = 2 * 4096 * 1024 * 1024
    return {
        "gflops_onednn": flops / ms["onednn"] / 1e6,
        "gflops_bf16": flops / ms["bf16"] / 1e6,
        "gops_int8": flops / ms["int8"] / 1e6,
        "gflops_torch_linear": flops / ms["torch"] / 1e6,
        "gigabytes_per_second": 2 * large.nbytes / ms["copy"] / 1e6,
    }


def parts(name: str, config: EncoderConfig, peak: float) -> list[dict[str, Any]]:
    """Each kind of part, prepared for inference: milliseconds, and its arithmetic as a share of the machine's."""
    with torch.no_grad():
        ms = median_ms({part.name: part.run for part in take_apart(name, config, SECONDS)}, ROUNDS)
    macs = {f"{name} {at}": float(cost.macs) * SECONDS for at, cost in encoder_cost(config, seconds=SECONDS).items()}
    rows: dict[str, dict[str, float]] = {}
    for at, took in ms.items():
        pieces = at.split(" ", 1)[1].split(".")
        kind = pieces[-1] if pieces[0] == "layers" else ".".join(pieces)
        row = rows.setdefault(kind, {"ms": 0.0, "gmacs": 0.0})
        row["ms"] += took
        row["gmacs"] += macs.get(at, 0.0) / 1e9
    return [{"part": kind, **row, "share_of_limit": 2 * row["gmacs"] / (row["ms"] / 1000) / peak} for kind, row in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        at = build(Path(scratch))
        record = bench(
            list(at.values()),
            vs=at["hubert-base"],
            runtimes=["transformers", "torch", "fast", "onnx"],
            seconds=[SECONDS],
            batches=[1],
            rounds=options.rounds,
            threads=THREADS,
            say=print,
        )
        shapes = {name: sottovoce.load(folder).config for name, folder in at.items() if not name.endswith("int8")}
    most = limits()
    peak = max(most["gflops_onednn"], most["gflops_torch_linear"])
    record |= {
        "limits": most,
        "kernels": kernels.choices(),
        "parts": {name: parts(name, shape, peak) for name, shape in shapes.items() if shape is not None},
        "shapes": {name: shape.to_dict() for name, shape in shapes.items() if shape is not None},
    }
    ledger.write(options.out, {"name": "speed", **record})
    for row in record["rows"]:
        faster = row["speedup"]["value"] if row["speedup"] else 1.0
        print(f"{row['model']:18} {row['runtime']:13} {row['median_ms']:8.1f} ms  {faster:5.2f}x  {row['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
