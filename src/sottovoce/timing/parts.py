"""Single parts of encoders, ready to be timed: small encoders over a grid of widths, taken apart.

They are those of the encoder prepared for inference, where that can be done. The parts, what they read and their terms all come from one
`EncoderConfig`, so that what is timed is what the formula describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.inference.packed import PackedFrontend, fastest
from sottovoce.pruning import PartCost, encoder_parts, kinds


@dataclass(frozen=True)
class Timeable:
    """run: the part, once. part: its terms."""

    name: str
    part: PartCost
    run: Callable[[], object]


def grid() -> dict[str, EncoderConfig]:
    """Shapes whose parts cover, for each kind of part, narrow to wide; none is a model."""
    return {name: config for kind in kinds() for name, config in kind.timed().items()}


def take_apart(name: str, config: EncoderConfig, seconds: float) -> list[Timeable]:
    """The parts of an encoder with random weights, each with the input that it has in a clip of `seconds`."""
    encoder = fastest(Encoder(config).reset_parameters().eval().requires_grad_(False))
    assert isinstance(encoder, Encoder)
    parts = encoder_parts(config, seconds=seconds)
    modules = _modules(encoder, parts.values())
    seen: dict[str, list[tuple[Any, ...]]] = {at: [] for at in modules}
    hooks = [module.register_forward_pre_hook(lambda m, given, at=at: seen[at].append(given)) for at, module in modules.items()]
    encoder(torch.randn(1, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    timeable = []
    for at, part in parts.items():
        if seen.get(at):
            timeable.append(Timeable(f"{name} {at}", part, _call(modules[at], seen[at])))
        elif at == "frontend.projection":
            timeable.append(Timeable(f"{name} {at}", part, _projection(encoder, *seen["frontend.norm"][0])))
        elif at == "norms" and part.terms["call"]:
            timeable.append(Timeable(f"{name} {at}", part, _norms(config, seconds, int(part.terms["call"]))))
    return timeable


def _modules(encoder: Encoder, parts: Iterable[PartCost]) -> dict[str, nn.Module]:
    """Part -> module, for the parts that are one module; and the norm that the projection begins with."""
    known = dict(encoder.named_modules())
    if isinstance(encoder.frontend, PackedFrontend):  # its convolutions stand in for the encoder's
        known |= {f"frontend.convs.{i}": conv for i, conv in enumerate(encoder.frontend.packed)}
    names = {part.name: part.module or part.name for part in parts} | {"frontend.norm": "frontend.norm"}
    return {name: known[module] for name, module in names.items() if module in known and name != "frontend.projection"}


def _call(module: nn.Module, calls: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    return lambda: [module(*given) for given in calls]  # more than one where the clip is taken in pieces


def _projection(encoder: Encoder, x: Tensor) -> Callable[[], object]:
    return lambda: encoder.frontend.projected(x)


def _norms(config: EncoderConfig, seconds: float, count: int) -> Callable[[], object]:
    """So many sums and norms of frames."""
    from sottovoce.encoder.modules import LayerNorm

    norm = LayerNorm(config.dim).requires_grad_(False)
    x = torch.randn(1, config.frontend.frames(round(seconds * SAMPLE_RATE)), config.dim)

    def run() -> Tensor:
        y = x
        for _ in range(count):
            y = norm(x + y)
        return y

    return run
