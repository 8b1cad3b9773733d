"""What linear layers and convolutions of an encoder read and write: means and second moments over recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.encoder import Encoder

STEPS = 2000  # of a convolution's windows per recording, evenly spaced


@dataclass
class Moments:
    """Sums over `count` vectors of width N: total (N,), squares (N,), and products (N, N) or ``None`` if they were not asked for.

    A convolution's vectors are its input windows, channel by channel, as in its flattened weight.
    """

    count: int
    total: Tensor
    squares: Tensor
    products: Tensor | None

    @property
    def mean(self) -> Tensor:
        """(N,) E[x]"""
        return self.total / self.count

    @property
    def power(self) -> Tensor:
        """(N,) E[x^2]"""
        return self.squares / self.count

    def second(self, centred: bool) -> Tensor:
        """(N, N) the covariance, or E[x x^T] if it is not centred; in double precision."""
        assert self.products is not None
        second = self.products.double() / self.count
        return second - torch.outer(self.mean.double(), self.mean.double()) if centred else second

    def gather(self, summed: Callable[[Tensor], Tensor]) -> None:
        """Replaces all sums by those over processes."""
        self.count = int(summed(torch.tensor(self.count, device=self.total.device)))
        self.total, self.squares = summed(self.total), summed(self.squares)
        self.products = None if self.products is None else summed(self.products)

    def add(self, rows: Tensor) -> None:
        """rows: (R, N)"""
        rows = rows.float()
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += rows.square().sum(0)
        if self.products is not None:
            self.products.addmm_(rows.t(), rows)


@torch.no_grad()
def collect(
    encoder: Encoder, waves: Iterable[Tensor], reads: Iterable[str] = (), writes: Iterable[str] = (), products: bool = True
) -> dict[str, Moments]:
    """Moments of what the modules `reads` read and `writes` write, by name of the module, while `encoder` hears each wave (1, S) alone.

    A module may be a `Linear`, a `FactoredLinear` or, only in `reads`, a convolution. products: whether to sum products, too.
    """
    modules: Mapping[str, nn.Module] = dict(encoder.named_modules())
    found: dict[str, Moments] = {}
    hooks: list[Any] = []

    def keep(name: str, rows: Tensor) -> None:
        if name not in found:
            width = rows.shape[1]
            zeros = rows.new_zeros(width, dtype=torch.float32)
            square = rows.new_zeros(width, width, dtype=torch.float32) if products else None
            found[name] = Moments(0, zeros, zeros.clone(), square)
        found[name].add(rows)

    def hear(name: str, convolution: nn.Conv1d | None) -> Callable[..., None]:
        return lambda module, inputs: keep(
            name, inputs[0].flatten(0, -2) if convolution is None else windows(convolution, inputs[0])
        )

    for name in reads:
        module = modules[name]
        hooks.append(module.register_forward_pre_hook(hear(name, module if isinstance(module, nn.Conv1d) else None)))
    for name in writes:
        hooks.append(modules[name].register_forward_hook(lambda m, inputs, output, name=name: keep(name, output.flatten(0, -2))))
    training = encoder.training
    try:
        encoder.eval()
        for wave in waves:
            encoder(wave)
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return found


def windows(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Input windows of a convolution: (B, C, T) -> (R, C K), at most `STEPS` of each row, evenly spaced."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    steps = (x.shape[2] - kernel) // stride + 1
    at = torch.linspace(0, steps - 1, min(steps, STEPS), device=x.device).round().long() * stride
    index = at[:, None] + torch.arange(kernel, device=x.device)
    return x[:, :, index].permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
