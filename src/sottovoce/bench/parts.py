"""Single parts of encoders, ready to be timed: small encoders over a grid of widths, taken apart.

They are those of the encoder prepared for inference, where that can be done. The parts, what they read and their terms all come from one
`EncoderConfig`, so that what is timed is what the formula describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import (
    ConvConfig,
    ConvolutionConfig,
    DistanceConfig,
    Encoder,
    EncoderConfig,
    FbankConfig,
    FrontendConfig,
    LayerConfig,
    PositionConfig,
    RelativeConfig,
)
from sottovoce.inference.packed import PackedFrontend, fastest
from sottovoce.pruning.latency import Part, encoder_parts

STEPS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # kernels and strides of wav2vec 2.0 and its kin
FIXED = FrontendConfig((), fbank=FbankConfig())  # for what stands behind the front end


@dataclass(frozen=True)
class Timeable:
    """run: the part, once. part: its terms."""

    name: str
    part: Part
    run: Callable[[], object]


def front(dims: tuple[int, ...], norm: str) -> FrontendConfig:
    return FrontendConfig(
        tuple(ConvConfig(dim, *step) for dim, step in zip(dims, STEPS, strict=True)), norm, bias=norm == "layer"
    )


def grid() -> dict[str, EncoderConfig]:
    """Shapes whose parts cover, for each kind, narrow to wide, alone and together; none is a model."""
    made: dict[str, EncoderConfig] = {}
    dims = {
        "128": (128,) * 7,
        "512": (512,) * 7,
        "48": (48,) * 7,
        "mixed": (320, 96, 400, 200, 500, 64, 256),
        "odd": (57, 431, 203, 350, 11, 300, 130),
    }
    widths = iter((192, 768, 384, 1024, 512))
    for name, channels in dims.items():
        dim = next(widths)
        for norm in ("group", "layer"):
            made[f"front-{norm}-{name}"] = EncoderConfig(front(channels, norm), dim, PositionConfig(128, 16), ())
    for dim in (192, 768, 1024):
        # heads and units: few, all, more than all
        sizes = ((1, 32, 24), (dim // 64, 64, dim), (max(1, dim // 128), 64, 4 * dim), (3, 64, 333))
        layers = tuple(LayerConfig(heads, width, units) for heads, width, units in sizes)
        made[f"layers-{dim}"] = EncoderConfig(FIXED, dim, None, layers)
        tables = tuple(LayerConfig(heads, width, 0, ffn=False, heads=tuple(range(heads))) for heads, width, _ in sizes)
        made[f"relative-{dim}"] = EncoderConfig(FIXED, dim, None, tables, relative=RelativeConfig(320, 800, dim // 64))
        for kind, norm in (("key", "layer"), ("sinusoid", "batch"), ("rotary", "layer")):
            glu = (24, dim, dim // 2, 100)
            halves = tuple(
                LayerConfig(heads, width, 0, ffn=False, kind="conformer", ffn1=False, glu_dim=channels)
                for (heads, width, _), channels in zip(sizes, glu, strict=True)
            )
            shape = ConvolutionConfig(31, causal=kind == "key", norm=norm)
            distance = DistanceConfig(kind, left=64, right=8)
            made[f"{kind}-{dim}"] = EncoderConfig(FIXED, dim, None, halves, distance=distance, convolution=shape, norm_first=True)
    return made


def take_apart(name: str, config: EncoderConfig, seconds: float) -> list[Timeable]:
    """The parts of an encoder with random weights, each with the input that it has in a clip of `seconds`."""
    encoder = fastest(Encoder(config).reset_parameters().eval().requires_grad_(False))
    assert isinstance(encoder, Encoder)
    modules = _modules(encoder)
    seen: dict[str, list[tuple[Any, ...]]] = {at: [] for at in modules}
    hooks = [module.register_forward_pre_hook(lambda m, given, at=at: seen[at].append(given)) for at, module in modules.items()]
    encoder(torch.randn(1, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    made = []
    for at, part in encoder_parts(config, seconds=seconds).items():
        if seen.get(at):
            made.append(Timeable(f"{name} {at}", part, _call(modules[at], seen[at])))
        elif at == "frontend.projection":
            made.append(Timeable(f"{name} {at}", part, _projection(encoder, *seen["frontend.norm"][0])))
        elif at == "norms" and part.terms["call"]:
            made.append(Timeable(f"{name} {at}", part, _norms(config, seconds, int(part.terms["call"]))))
    return made


def _modules(encoder: Encoder) -> dict[str, nn.Module]:
    """Part -> module, for the parts that are one module; and the norm that the projection begins with."""
    convs = encoder.frontend.packed if isinstance(encoder.frontend, PackedFrontend) else encoder.frontend.convs
    made: dict[str, nn.Module] = {f"frontend.convs.{i}": conv for i, conv in enumerate(convs)}
    made["frontend.norm"] = encoder.frontend.norm
    for name, module in (
        ("frontend.fbank", encoder.frontend.fbank),
        ("position", encoder.position),
        ("relative", encoder.relative),
    ):
        if module is not None:
            made[name] = module
    for i, layer in enumerate(encoder.layers):
        for part, attribute in (("attention", "attention"), ("ffn", "ffn"), ("ffn1", "ffn1"), ("glu", "convolution")):
            module = getattr(layer, attribute, None)
            if isinstance(module, nn.Module):
                made[f"layers.{i}.{part}"] = module
    return made


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
