"""Channels of the front end's convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import ConvConfig, EncoderConfig, FrontendConfig, LogMelConfig, PositionConfig, ProjectionConfig
from sottovoce.pruning.unit import Group, PartCost, Place, Slice, UnitKind, Width, Workload


@UNITS.register("conv")
class ConvChannels(UnitKind):
    """Channels of the waveform convolutions."""

    rounded = True
    option = ("conv_dims", tuple[int, ...], ())

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {name: conv.dim for name, conv in _convs(config)}

    def place(self, group: str) -> Place:
        return (-1, 0)

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        frontend = config.frontend
        for i, (at, conv) in enumerate(_convs(config)):
            slices = [Slice(f"{at}.conv.weight", 0)]
            if frontend.biased(i):
                slices.append(Slice(f"{at}.conv.bias", 0))
            if _normed(frontend, i):
                slices += [Slice(f"{at}.norm.weight", 0), Slice(f"{at}.norm.bias", 0)]
            if i + 1 < len(frontend.convs):
                slices.append(Slice(f"frontend.convs.{i + 1}.conv.weight", 1, scale=True))
            else:
                # The gate is after the layer norm, on the projection's columns. Before the norm, as in the reference, a gate value
                # would change the statistics of all channels, and the student would need an extra vector ("dummy_weight").
                if frontend.projection_norm:
                    slices += [Slice("frontend.norm.weight", 0), Slice("frontend.norm.bias", 0)]
                slices.append(Slice("frontend.projection.weight", 1, frontend.join, scale=True))
            yield Group(at, self.name, conv.dim, tuple(slices), minimum=1, index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        convs = list(config.frontend.convs)
        convs[group.index] = dataclasses.replace(convs[group.index], dim=len(kept))
        return dataclasses.replace(config, frontend=dataclasses.replace(config.frontend, convs=tuple(convs)))

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        inputs: Width = workload.config.frontend.inputs
        for i, (at, conv) in enumerate(_convs(workload.config)):
            units = workload.sizes[at]
            yield _part(workload, i, conv, inputs, units)
            inputs = units

    def timed(self) -> Mapping[str, EncoderConfig]:
        dims = {
            "128": (128,) * 7,
            "512": (512,) * 7,
            "48": (48,) * 7,
            "mixed": (320, 96, 400, 200, 500, 64, 256),
            "odd": (57, 431, 203, 350, 11, 300, 130),
        }
        widths = (192, 768, 384, 1024, 512)
        return {
            f"front-{norm}-{name}": EncoderConfig(FrontendConfig.like_wav2vec2(channels, norm), dim, PositionConfig(128, 16), ())
            for (name, channels), dim in zip(dims.items(), widths, strict=True)
            for norm in ("group", "layer")
        } | {
            f"front-{name}-{dim}": EncoderConfig(shape, dim, None, (), norm_first=True)
            for dim in (64, 192, 288, 512, 768)
            for name, shape in (("log-mel", log_mel_front(dim)), ("whole", whole_front(dim)))
        }

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        return {at: f"Convolution {i + 1}" for i, (at, _) in enumerate(_convs(config))}

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        return {at: (f"conv {i + 1}", f"{conv.dim} channels") for i, (at, conv) in enumerate(_convs(config))}


def log_mel_front(dim: int) -> FrontendConfig:
    """Whisper's front end in this width."""
    convs, last = (ConvConfig(dim, 3, 1, 1),), ProjectionConfig(3, 2, 1)
    return FrontendConfig(convs, "none", bias=True, projection_norm=False, log_mel=LogMelConfig(), projection=last)


def whole_front(dim: int) -> FrontendConfig:
    """Moonshine's front end in this width."""
    convs = (ConvConfig(dim, 127, 64, bias=False, activation="tanh"), ConvConfig(2 * dim, 7, 3))
    return FrontendConfig(convs, "whole", bias=True, projection_norm=False, projection=ProjectionConfig(3, 2))


def _part(workload: Workload, i: int, conv: ConvConfig, inputs: Width, units: Width) -> PartCost:
    frontend = workload.config.frontend
    before = len(frontend.features.steps) if frontend.features is not None else 0
    frames = workload.frames_after(before + i + 1)
    weights = inputs * units * conv.kernel
    params = weights + units * (int(frontend.biased(i)) + 2 * int(_normed(frontend, i)))

    first = i == 0 and frontend.in_pieces

    def terms() -> Mapping[str, Width]:
        if first:  # one input and a kernel of ten: arithmetic and outputs are in proportion
            return {"outputs": units * frames, "call": 1}
        moved = {"inputs": inputs * (conv.stride * frames), "outputs": units * frames}
        return {"macs": inputs * units * (conv.kernel * frames), **moved, "call": 1}

    # of a front end with a group norm, only the first convolution has one; the others are plain
    kind = f"{'conv.first' if first else 'conv'}.{'layer' if frontend.norm == 'layer' else 'group'}"
    if not frontend.in_pieces:
        kind = "conv.whole.normed" if _normed(frontend, i) else "conv.whole"
    return PartCost(f"frontend.convs.{i}", kind, (-1, 0), frames, params, weights * frames, terms)


def _convs(config: EncoderConfig) -> list[tuple[str, ConvConfig]]:
    return [(f"frontend.convs.{i}", conv) for i, conv in enumerate(config.frontend.convs)]


def _normed(frontend: FrontendConfig, i: int) -> bool:
    return frontend.norm == "layer" or (frontend.norm in ("group", "whole") and i == 0)
