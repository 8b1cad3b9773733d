"""A student of a given shape with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sottovoce.encoder import (
    ConvConfig,
    DropoutConfig,
    Encoder,
    EncoderConfig,
    FrontendConfig,
    LayerConfig,
    PositionConfig,
)
from sottovoce.families import Pretrained, load_pretrained
from sottovoce.registry import STUDENTS
from sottovoce.students.base import Student


@STUDENTS.register("random")
class Random(Student):
    """Random weights in a stated shape, or in the shape of another model: for pre-training and as a control."""

    @dataclass(frozen=True)
    class Config:
        """like: folder or hub id whose shape is taken; otherwise the fields below, in HuBERT's layout (defaults: HuBERT Base)."""

        like: str = ""
        dim: int = 768
        depth: int = 12
        heads: int = 12
        ffn_dim: int = 3072
        conv_dims: tuple[int, ...] = (512,) * 7
        conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
        conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
        position_kernel: int = 128
        position_groups: int = 16
        norm: Literal["group", "layer"] = "group"
        norm_first: bool = False
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
        if not len(want.conv_dims) == len(want.conv_kernels) == len(want.conv_strides):
            raise ValueError("student.conv_dims, conv_kernels and conv_strides must have the same length")
        if want.dim % want.heads or want.dim % want.position_groups:
            raise ValueError(
                f"student.dim={want.dim} must be a multiple of heads ({want.heads}) and position_groups ({want.position_groups})"
            )
        convs = tuple(ConvConfig(*each) for each in zip(want.conv_dims, want.conv_kernels, want.conv_strides, strict=True))
        rate = want.dropout
        return EncoderConfig(
            frontend=FrontendConfig(convs, norm=want.norm),
            dim=want.dim,
            position=PositionConfig(want.position_kernel, want.position_groups),
            layers=(LayerConfig(want.heads, want.dim // want.heads, want.ffn_dim),) * want.depth,
            norm_first=want.norm_first,
            dropout=DropoutConfig(projection=rate, hidden=rate, attention=rate),
        )
