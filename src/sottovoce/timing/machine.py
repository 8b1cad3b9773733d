"""Describes the machine in a record of speed, so that numbers of different machines can be told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core import ledger

SIZE, REPEATS = 1024, 4


def header(kind: str, threads: int) -> dict[str, Any]:
    """`ledger.header` for a measurement on `threads` threads, with the peak speed of this machine.

    Its ``machine`` holds ``instruction_set``, ``cores`` and ``float32_gflops`` (see `peaks`). Takes about a second; nothing else should
    run then.
    """
    record = ledger.header(kind)
    record["machine"] |= {"threads": threads, "float32_gflops": peaks(threads)}
    return record


@torch.no_grad()
def peaks(threads: int) -> dict[str, float]:
    """The fastest float32 product of two 1024 x 1024 matrices, in GFLOP/s, by number of threads: one, `threads`, and one per core.

    The faster of PyTorch's and oneDNN's product, the best of a few calls.
    """
    x, weight = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    products = [lambda: F.linear(x, weight), *_onednn(x, weight)]
    gflops = {}
    for count in sorted({1, threads, ledger.cores()}):
        with threads_of_torch(count):
            gflops[str(count)] = round(max(2 * SIZE**3 / _seconds(product) / 1e9 for product in products), 1)
    return gflops


@contextmanager
def threads_of_torch(count: int | None) -> Iterator[int]:
    """Sets torch's number of threads to `count` (``None``: unchanged) and restores it at the end. Yields the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def _onednn(x: Tensor, weight: Tensor) -> list[Callable[[], Tensor]]:
    """oneDNN's product with a packed weight, if this build of torch has it."""
    if not torch.backends.mkldnn.is_available():
        return []
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return [lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "none")]


def _seconds(call: Callable[[], Tensor]) -> float:
    """The shortest of a few calls, after one warm-up."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
