"""One process or many. Under torchrun every process works on its own batches and sums are exchanged; alone, nothing happens.

Gradients are summed by hand after the last micro-batch rather than by DistributedDataParallel: with gates, which weights take part in a
step differs from process to process, and the loss is normalised by the global frame count, so a sum is what is wanted, not a mean.
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
    """rank of size; device: where this process computes."""

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
        """Replaces every gradient by its sum over all processes (zeros where one has none)."""
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
        """Gives every process the main one's values."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether any process raised the flag."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks. Plain values and tensors on the CPU."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()


def connect(device: str = "auto") -> World:
    """The world this process belongs to: torchrun's when it set one up, else this process alone."""
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
            torch.cuda.set_device(device)  # whose random generator checkpoints hold
    except (RuntimeError, AssertionError) as problem:
        raise ValueError(f"device '{name}' cannot be used here: {str(problem).splitlines()[0]}") from None
    return device
