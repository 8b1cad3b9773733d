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
    PositionConfig,
)
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.students.base import Student


@STUDENTS.register("random")
class Random(Student):
    """Random weights in a stated shape, or in the shape of another model: for pre-training and as a control."""

    @dataclass(frozen=True)
    class Config:
        """like: folder or hub id whose shape is taken; otherwise the fields below, in HuBERT's layout (defaults: HuBERT Base).

        join: so many frames of the front end become one before the first layer (time reduction).

        frontend: convolutions over the waveform (conv_dims, conv_kernels, conv_strides, norm), or a "fbank" of log-mel bands, which costs
        next to nothing. normalize: the filter bank's bins, per utterance. layer: "transformer", or "conformer" with convolutions over
        `kernel` frames and, in attention, learned distances up to `left` frames back and `right` ahead (w2v-BERT 2.0's layout, which
        has no positional convolution).
        """

        like: str = ""
        dim: int = 768
        depth: int = 12
        heads: int = 12
        ffn_dim: int = 3072
        layer: Literal["transformer", "conformer"] = "transformer"
        frontend: Literal["wave", "fbank"] = "wave"
        normalize: bool = True
        conv_dims: tuple[int, ...] = (512,) * 7
        conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
        conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
        position_kernel: int = 128
        position_groups: int = 16
        join: int = 1
        norm: Literal["group", "layer"] = "group"
        norm_first: bool = False
        kernel: int = 31
        left: int = 64
        right: int = 8
        dropout: float = 0.1

    def build(self, teacher: Pretrained | None) -> Encoder:
        return Encoder(self.shape()).reset_parameters()

    def shape(self) -> EncoderConfig:
        want: Random.Config = self.config
        if want.like:
            config = load_pretrained(want.like).config
            if config is None:
                raise ValueError(f"'{want.like}' is of a family whose shape cannot be copied")
            return config
        if want.dim % want.heads:
            raise ValueError(f"student.dim={want.dim} must be a multiple of heads ({want.heads})")
        rate = want.dropout
        dropout = DropoutConfig(projection=rate, hidden=rate, attention=rate)
        if want.layer == "conformer":
            layer = LayerConfig(
                want.heads, want.dim // want.heads, want.ffn_dim, kind="conformer", ffn1_dim=want.ffn_dim, glu_dim=want.dim
            )
            return EncoderConfig(
                frontend=self.front(),
                dim=want.dim,
                position=None,
                layers=(layer,) * want.depth,
                norm_first=True,
                activation="swish",
                distance=DistanceConfig("key", want.left, want.right),
                convolution=ConvolutionConfig(want.kernel, causal=True),
                norm=False,
                dropout=dropout,
            )
        if want.dim % want.position_groups:
            raise ValueError(f"student.dim={want.dim} must be a multiple of position_groups ({want.position_groups})")
        return EncoderConfig(
            frontend=self.front(),
            dim=want.dim,
            position=PositionConfig(want.position_kernel, want.position_groups),
            layers=(LayerConfig(want.heads, want.dim // want.heads, want.ffn_dim),) * want.depth,
            norm_first=want.norm_first,
            dropout=dropout,
        )

    def front(self) -> FrontendConfig:
        want: Random.Config = self.config
        if want.frontend == "fbank":
            return FrontendConfig((), fbank=FbankConfig(normalize=want.normalize), join=want.join)
        if not len(want.conv_dims) == len(want.conv_kernels) == len(want.conv_strides):
            raise ValueError("student.conv_dims, conv_kernels and conv_strides must have the same length")
        sizes = zip(want.conv_dims, want.conv_kernels, want.conv_strides, strict=True)
        return FrontendConfig(tuple(ConvConfig(*size) for size in sizes), norm=want.norm, join=want.join)
