"""Single parts of encoders, ready to be timed, from small encoders over a grid of widths.

The encoders are packed for inference where possible. A part, its input and its terms come from one `EncoderConfig`, so the timings match
the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.inference.packed import PackedFrontend, PackedWhole, fastest
from sottovoce.pruning import PartCost, encoder_parts, kinds


@dataclass(frozen=True)
class Timeable:
    """A part that can be timed. run: computes it once. part: its cost, with the terms."""

    name: str
    part: PartCost
    run: Callable[[], object]


def grid() -> dict[str, EncoderConfig]:
    """The encoders whose parts are timed: for each kind of part, from narrow to wide."""
    return {name: config for kind in kinds() for name, config in kind.timed().items()}


def take_apart(name: str, config: EncoderConfig, seconds: float) -> list[Timeable]:
    """The parts of an encoder with random weights, each with its input for a clip of `seconds`."""
    encoder = fastest(Encoder(config).reset_parameters().eval().requires_grad_(False))
    assert isinstance(encoder, Encoder)
    parts = encoder_parts(config, seconds=seconds)
    modules = _modules(encoder, parts.values())
    inputs: dict[str, list[tuple[Any, ...]]] = {at: [] for at in modules}
    hooks = [module.register_forward_pre_hook(lambda m, args, at=at: inputs[at].append(args)) for at, module in modules.items()]
    encoder(torch.randn(1, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    timeable = []
    for at, part in parts.items():
        if inputs.get(at):
            timeable.append(Timeable(f"{name} {at}", part, _call(modules[at], inputs[at])))
        elif at == "frontend.projection":
            timeable.append(Timeable(f"{name} {at}", part, _projection(encoder, *inputs["frontend.norm"][0])))
        elif at == "norms" and part.terms["call"]:
            timeable.append(Timeable(f"{name} {at}", part, _norms(config, seconds, int(part.terms["call"]))))
    return timeable


def _modules(encoder: Encoder, parts: Iterable[PartCost]) -> dict[str, nn.Module]:
    """Part -> module, for the parts that are one module, and for the projection's norm."""
    modules = dict(encoder.named_modules())
    if isinstance(encoder.frontend, PackedFrontend | PackedWhole):  # its packed convolutions replace the encoder's
        modules |= {f"frontend.convs.{i}": conv for i, conv in enumerate(encoder.frontend.packed)}
    names = {part.name: part.module or part.name for part in parts} | {"frontend.norm": "frontend.norm"}
    return {name: modules[module] for name, module in names.items() if module in modules and name != "frontend.projection"}


def _call(module: nn.Module, calls: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    return lambda: [module(*args) for args in calls]  # several calls if the clip is computed in pieces


def _projection(encoder: Encoder, x: Tensor) -> Callable[[], object]:
    return lambda: encoder.frontend.projected(x)


def _norms(config: EncoderConfig, seconds: float, count: int) -> Callable[[], object]:
    """`count` residual sums, each with its norm."""
    from sottovoce.encoder.modules import LayerNorm

    norm = LayerNorm(config.dim).requires_grad_(False)
    x = torch.randn(1, config.frontend.frames(round(seconds * SAMPLE_RATE)), config.dim)

    def run() -> Tensor:
        y = x
        for _ in range(count):
            y = norm(x + y)
        return y

    return run
