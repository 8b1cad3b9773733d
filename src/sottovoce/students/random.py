"""A student of a given shape with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import (
    ConvConfig,
    ConvolutionConfig,
    DistanceConfig,
    DropoutConfig,
    Encoder,
    EncoderConfig,
    FbankConfig,
    FrontendConfig,
    LayerConfig,
    LogMelConfig,
    PositionConfig,
)
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.students.base import Student, sharing_maps, spectral_frontend


@STUDENTS.register("random")
class Random(Student):
    """Random weights in a given shape, or in the shape of another model: for pre-training and as a control."""

    @dataclass(frozen=True)
    class Config:
        """like: folder or hub id of a model whose shape is copied; if empty, the fields below give the shape (defaults: HuBERT Base).

        join: number of front-end frames that become one before the first layer (time reduction).

        frontend: "wave", convolutions over the waveform (conv_dims, conv_kernels, conv_strides, norm); "fbank", a log-mel filter bank,
        which is much cheaper; or "log_mel", log-mel energies relative to the utterance's loudest, so that its level does not matter.
        normalize: normalises each bin of the filter bank per utterance. mels: bins. subsampler: channels of a convolution of stride 2 over
        the 10 ms frames, `subsampler_kernel` wide; 0: pairs of frames are joined instead.

        ffn_ratio: if above 0, `ffn_dim` is so many times `dim`, so that `dim` alone sets the size.

        layer: "transformer", or "conformer" as in w2v-BERT 2.0: convolutions over `kernel` frames, learned distances in attention up to
        `left` frames back and `right` ahead, no positional convolution. position_depth: positional convolutions in a row; of several, each
        has a norm behind it (data2vec-audio). share_maps: so many layers in a row share the attention map of the first (2 in ARMHuBERT).
        """

        like: str = ""
        dim: int = 768
        depth: int = 12
        heads: int = 12
        ffn_dim: int = 3072
        ffn_ratio: int = 0
        layer: Literal["transformer", "conformer"] = "transformer"
        frontend: Literal["wave", "fbank", "log_mel"] = "wave"
        normalize: bool = True
        mels: int = 80
        subsampler: int = 0
        subsampler_kernel: int = 5
        conv_dims: tuple[int, ...] = (512,) * 7
        conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
        conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
        position_kernel: int = 128
        position_groups: int = 16
        position_depth: int = 1
        join: int = 1
        norm: Literal["group", "layer"] = "group"
        norm_first: bool = False
        kernel: int = 31
        left: int = 64
        right: int = 8
        share_maps: int = 1
        dropout: float = 0.1

    def build(self, teacher: Pretrained | None) -> Encoder:
        return Encoder(self.shape()).reset_parameters()

    def shape(self) -> EncoderConfig:
        options: Random.Config = self.config
        if options.like:
            config = load_pretrained(options.like).config
            if config is None:
                raise ValueError(
                    f"the shape of '{options.like}' cannot be copied; give dim, depth, heads and ffn_dim instead of like"
                )
            return config
        if options.dim % options.heads:
            raise ValueError(f"student.dim={options.dim} must be a multiple of heads ({options.heads})")
        rate, ffn_dim = options.dropout, options.ffn_ratio * options.dim or options.ffn_dim
        dropout = DropoutConfig(projection=rate, hidden=rate, attention=rate)
        if options.layer == "conformer":
            layer = LayerConfig(
                options.heads,
                options.dim // options.heads,
                ffn_dim,
                kind="conformer",
                ffn1_dim=ffn_dim,
                glu_dim=options.dim,
            )
            return EncoderConfig(
                frontend=self.front(),
                dim=options.dim,
                position=None,
                layers=self.layers(layer),
                norm_first=True,
                activation="swish",
                distance=DistanceConfig("key", options.left, options.right),
                convolution=ConvolutionConfig(options.kernel, causal=True),
                norm=False,
                dropout=dropout,
            )
        if options.dim % options.position_groups:
            raise ValueError(f"student.dim={options.dim} must be a multiple of position_groups ({options.position_groups})")
        return EncoderConfig(
            frontend=self.front(),
            dim=options.dim,
            position=PositionConfig(
                options.position_kernel, options.position_groups, options.position_depth, norm=options.position_depth > 1
            ),
            layers=self.layers(LayerConfig(options.heads, options.dim // options.heads, ffn_dim)),
            norm_first=options.norm_first,
            dropout=dropout,
        )

    def layers(self, layer: LayerConfig) -> tuple[LayerConfig, ...]:
        return sharing_maps([layer] * self.config.depth, self.config.share_maps)

    def front(self) -> FrontendConfig:
        options: Random.Config = self.config
        if options.frontend == "fbank":
            bank = FbankConfig(options.mels, normalize=options.normalize)
            return spectral_frontend(bank, options.subsampler, options.subsampler_kernel, options.join)
        if options.frontend == "log_mel":
            return spectral_frontend(LogMelConfig(options.mels), options.subsampler, options.subsampler_kernel, options.join)
        if not len(options.conv_dims) == len(options.conv_kernels) == len(options.conv_strides):
            raise ValueError("student.conv_dims, conv_kernels and conv_strides must have the same length")
        sizes = zip(options.conv_dims, options.conv_kernels, options.conv_strides, strict=True)
        return FrontendConfig(tuple(ConvConfig(*size) for size in sizes), norm=options.norm, join=options.join)
