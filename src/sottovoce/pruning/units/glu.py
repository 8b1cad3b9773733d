"""Channels of a Conformer's convolution module, which begins with gated linear units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sottovoce.core.registry import UNITS
from sottovoce.encoder import ConvolutionConfig, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig
from sottovoce.pruning.unit import Group, PartCost, Slice, UnitKind, Width, Workload, any_unit, iter_layers


@UNITS.register("glu")
class ConvolutionChannels(UnitKind):
    """Channels of a Conformer's convolution module."""

    order = 4
    rounded = True
    option = ("glu_dim", int, 0)
    title = "Convolution channels"

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        return {f"{at}.glu": layer.glu_dim for _, at, layer in _conformers(config)}

    def groups(self, config: EncoderConfig) -> Iterator[Group]:
        # The gate is after norm and activation, on the last projection's columns, so the norm sees open channels only.
        vectors = ["weight", "bias", "mean", "variance"] if config.convolution.norm == "batch" else ["weight", "bias"]
        for i, at, layer in _conformers(config):
            if layer.glu_dim:
                module = f"{at}.convolution"
                slices = [Slice(f"{module}.in_proj.weight", 0, 2), Slice(f"{module}.depthwise.weight", 0)]
                slices += [Slice(f"{module}.norm.{vector}", 0) for vector in vectors]
                slices.append(Slice(f"{module}.out_proj.weight", 1, scale=True))
                yield Group(f"{at}.glu", self.name, layer.glu_dim, tuple(slices), index=i)

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        return config.with_layer(group.index, glu_dim=len(kept))

    def parts(self, workload: Workload) -> Iterator[PartCost]:
        dim, frames, shape = workload.config.dim, workload.frames, workload.config.convolution
        weights = 3 * dim + shape.kernel  # of a channel
        vectors = 4 if shape.norm == "batch" else 2
        for i, at, _ in _conformers(workload.config):
            name = f"{at}.glu"
            units, present = workload.sizes[name], workload.present(name)

            def terms(units: Width = units, present: Width = present) -> Mapping[str, Width]:
                computed = present * units
                return {
                    "macs": computed * (3 * dim * frames),
                    "depthwise": computed * (shape.kernel * frames),
                    "call": present * any_unit(units),
                }

            params, macs = units * (weights + vectors), units * weights * frames
            kind, module = f"glu.{shape.norm}", f"{at}.convolution"
            yield PartCost(name, kind, (i, 3), frames, present * params, present * macs, terms, module)

    def timed(self) -> Mapping[str, EncoderConfig]:
        front, shapes = FrontendConfig((), fbank=FbankConfig()), {}
        for dim in (192, 768, 1024):
            layers = tuple(
                LayerConfig(0, 64, 0, attention=False, ffn=False, kind="conformer", ffn1=False, glu_dim=channels)
                for channels in (24, dim, dim // 2, 100)
            )
            for norm, causal in (("layer", True), ("layer", False), ("batch", False)):
                shape = ConvolutionConfig(31, causal, norm)
                name = f"glu-{norm}-{'causal-' if causal else ''}{dim}"
                shapes[name] = EncoderConfig(front, dim, None, layers, convolution=shape, norm_first=True)
        return shapes

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        return {
            f"{at}.glu": (f"layer {i + 1} convolution", f"{layer.glu_dim} channels" if layer.glu_dim else "removed")
            for i, at, layer in _conformers(config)
        }


def _conformers(config: EncoderConfig) -> Iterator[tuple[int, str, LayerConfig]]:
    return ((i, at, layer) for i, at, layer in iter_layers(config) if layer.kind == "conformer")
