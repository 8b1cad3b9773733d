"""`sottovoce bench --fit-cost`: times the parts of encoders on this machine and fits the coefficients of `pruning.latency`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.inference.packed import fastest
from sottovoce.pruning.latency import KIND, LatencyModel, from_record
from sottovoce.timing.machine import header, threads_of_torch
from sottovoce.timing.parts import Timeable, grid, take_apart
from sottovoce.timing.rounds import Clock, median_ms

Say = Callable[[str], None]
front = FrontendConfig.like_wav2vec2

# Complete models that are not in the grid, to compare the sum of the parts with.
MODELS = {
    "narrow": EncoderConfig(
        front((128,) * 7, "group"),
        192,
        PositionConfig(128, 16),
        (LayerConfig(6, 32, 640),) * 12,
        norm_first=True,
    ),
    "pruned": EncoderConfig(
        front((432, 256, 200, 300, 350, 400, 432), "group"),
        768,
        PositionConfig(128, 16),
        (LayerConfig(3, 64, 430),) * 12,
    ),
    "wide": EncoderConfig(front((512,) * 7, "layer"), 768, PositionConfig(128, 16), (LayerConfig(12, 64, 3072),) * 6),
}


def fit(
    seconds: float = 10.0,
    *,
    threads: int | None = None,
    rounds: int = 6,
    shapes: Mapping[str, EncoderConfig] | None = None,
    whole: Mapping[str, EncoderConfig] | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Times single parts of encoders in turns, on one clip of `seconds`, and fits the coefficients of each kind of part.

    Returns the record that `load_latency` reads: the coefficients, the fit's error on the timed parts, and the error of the sum of parts
    on complete models. ValueError for less than half a second.
    """
    if seconds < 0.5:
        raise ValueError(f"clips of {seconds:g} s are too short to be timed; use half a second or more")
    with threads_of_torch(threads) as used, torch.no_grad():
        start = header(KIND, used)
        parts = [part for name, config in (shapes or grid()).items() for part in take_apart(name, config, seconds)]
        say(f"{len(parts)} parts in {rounds} rounds, {seconds:g} s of audio, {used} threads")
        # with one thread, processor time leaves out the time that other processes take
        clock = time.process_time if used == 1 else time.perf_counter
        times = median_ms({part.name: part.run for part in parts}, rounds, clock)
        coefficients, errors = fitted(parts, times)
        record = {
            **start,
            "seconds": seconds,
            "threads": used,
            "clock": "processor" if used == 1 else "wall",
            "rounds": rounds,
            "parts": len(parts),
            "coefficients": coefficients,
            "error_percent": errors,
        }
        return {**record, "whole": _check_models(from_record(record), whole or MODELS, rounds, clock, say)}


def fitted(
    parts: Sequence[Timeable], times: Mapping[str, float]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Fits every kind of part: (its coefficients, its error in percent: median and worst over its parts). times: in ms, by name.

    Squared errors are divided by the time. Absolute errors would fit the widest part only; relative errors would favour times that are
    too short.
    """
    coefficients: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(part.part.kind for part in parts):
        rows = [part for part in parts if part.part.kind == kind]
        terms = list(rows[0].part.terms)
        target = torch.tensor([times[part.name] for part in rows], dtype=torch.float64)
        matrix = torch.tensor([[float(part.part.terms[term]) for term in terms] for part in rows], dtype=torch.float64)
        solved = nonnegative(matrix / target.sqrt()[:, None], target.sqrt())
        error = ((matrix @ solved) / target - 1).abs() * 100
        coefficients[kind] = dict(zip(terms, solved.tolist(), strict=True))
        errors[kind] = {"parts": len(rows), "median": float(error.median()), "worst": float(error.max())}
    return coefficients, errors


def nonnegative(matrix: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Least squares without negative coefficients: (n, k), (n,) -> (k,).

    The optimum is an ordinary solution on the columns that it uses. There are few columns, so all sets of columns are tried.
    """
    scale = matrix.norm(dim=0).clamp(min=1e-300)
    columns = range(matrix.shape[1])
    best, least = torch.zeros(matrix.shape[1], dtype=matrix.dtype), float(target.square().sum())
    for size in columns:
        for used in itertools.combinations(columns, size + 1):
            chosen = list(used)
            solved = torch.linalg.lstsq((matrix / scale)[:, chosen], target[:, None], driver="gelsd").solution[:, 0]
            error = float(((matrix / scale)[:, chosen] @ solved - target).square().sum())
            if bool((solved >= 0).all()) and error < least:
                best, least = torch.zeros_like(best), error
                best[chosen] = solved / scale[chosen]
    return best


def _check_models(
    model: LatencyModel, shapes: Mapping[str, EncoderConfig], rounds: int, clock: Clock, say: Say
) -> dict[str, dict[str, float]]:
    """Measured and predicted milliseconds of complete models."""
    say(f"{len(shapes)} complete models, to compare with the sum of their parts")
    wave = torch.randn(1, round(model.seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    encoders = {name: fastest(Encoder(config).reset_parameters().eval().requires_grad_(False)) for name, config in shapes.items()}
    times = median_ms({name: partial(encoder, wave) for name, encoder in encoders.items()}, rounds, clock)
    rows = {}
    for name, config in shapes.items():
        predicted = float(model.total(config))
        rows[name] = {"ms": times[name], "predicted_ms": predicted, "error_percent": 100 * (predicted / times[name] - 1)}
    return rows


def show(record: Mapping[str, Any]) -> None:
    """Prints the errors of the fit."""
    console = Console()
    table = Table("part", box=box.SIMPLE, pad_edge=False)
    for name in ("timed", "median error", "worst"):
        table.add_column(name, justify="right")
    for kind, error in record["error_percent"].items():
        table.add_row(kind, str(error["parts"]), f"{error['median']:.1f} %", f"{error['worst']:.1f} %")
    console.print(table)
    for name, row in record["whole"].items():
        console.print(
            f"{name} model: {row['ms']:.0f} ms, predicted {row['predicted_ms']:.0f} ms ({row['error_percent']:+.1f} %)",
            highlight=False,
        )
