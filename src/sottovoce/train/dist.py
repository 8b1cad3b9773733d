"""One process or several. Under torchrun, each process trains on its own batches, and gradients are summed. Alone, nothing is exchanged.

Gradients are summed here after the last micro-batch, not by DistributedDataParallel, for two reasons: with gates, processes use different
weights in one update; and the loss is divided by the frames of all processes, so that gradients must be summed, not averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """rank: the number of this process. size: how many there are. device: where this process computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a small tensor over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over all processes. A process without a gradient adds zeros."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for p in trained:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        torch.distributed.all_reduce(flat)
        start = 0
        for p in trained:
            assert p.grad is not None
            p.grad.copy_(flat[start : start + p.numel()].view_as(p))
            start += p.numel()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Copies the main process's values to all processes."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks. Plain values and tensors on the CPU."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


def connect(device: str = "auto") -> World:
    """The processes of this run: torchrun's, or this process alone."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, _device(device))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    target = torch.device("cuda", local) if device.startswith("cuda") else torch.device(device)
    if target.type == "cuda":
        torch.cuda.set_device(target)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if target.type == "cuda" else "gloo")
    return World(rank, size, target)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # checkpoints hold the random state of this device
    except (RuntimeError, AssertionError) as problem:
        raise ValueError(f"device '{name}' cannot be used here: {str(problem).splitlines()[0]}") from None
    return device
