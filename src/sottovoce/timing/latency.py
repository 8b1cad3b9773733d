"""The latency of a model."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from sottovoce.core.types import SAMPLE_RATE


@torch.no_grad()
def latency(model: nn.Module, seconds: float = 10.0, repeats: int = 7) -> float:
    """Median wall time in seconds of one forward pass over a clip of `seconds`, batch of one, after one warm-up."""
    wave = torch.randn(1, int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    model(wave)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        model(wave)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
