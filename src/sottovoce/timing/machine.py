"""What a record of speed says of the machine, so that numbers of different machines can be told apart."""

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
    """`ledger.header` for a measurement that runs on `threads` threads, with the peaks of this machine.

    Its ``machine`` holds ``instruction_set``, ``cores`` and ``float32_gflops``: see `peaks`. Takes about a second, in which nothing else
    should run.
    """
    made = ledger.header(kind)
    made["machine"] |= {"threads": threads, "float32_gflops": peaks(threads)}
    return made


@torch.no_grad()
def peaks(threads: int) -> dict[str, float]:
    """The fastest float32 product of two 1024 x 1024 matrices, in GFLOP/s, by the number of threads: one, `threads`, and one per core.

    The faster of PyTorch's own product and oneDNN's, the best of a few calls.
    """
    x, weight = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    products = [lambda: F.linear(x, weight), *_onednn(x, weight)]
    made = {}
    for count in sorted({1, threads, ledger.cores()}):
        with threads_of_torch(count):
            made[str(count)] = round(max(2 * SIZE**3 / _seconds(product) / 1e9 for product in products), 1)
    return made


@contextmanager
def threads_of_torch(count: int | None) -> Iterator[int]:
    """Lets torch compute with `count` threads (``None``: as many as now) and puts the number back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def _onednn(x: Tensor, weight: Tensor) -> list[Callable[[], Tensor]]:
    """oneDNN's product, with the weight in its layout, where this build of torch has it."""
    if not torch.backends.mkldnn.is_available():
        return []
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
    return [lambda: torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "none")]


def _seconds(call: Callable[[], Tensor]) -> float:
    """The shortest of a few calls, after one to warm up."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
