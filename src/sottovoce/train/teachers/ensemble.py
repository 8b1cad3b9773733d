"""A teacher that joins the features of several speech encoders (Huang, Feng et al. 2023, arXiv 2302.12757)."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import Answer, Batch, Features
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher


@TEACHER_KINDS.register("ensemble")
class EnsembleTeacher(EncoderTeacher):
    """Several speech encoders as one: the average of their layers, or their layers beside each other.

    The first, `source`, sets depth and frame rate, and students start from it. Layer i of L is joined with layer floor(i M / L) of another
    encoder with M layers. Frames at another rate are interpolated linearly.
    """

    @dataclass(frozen=True)
    class Config(EncoderTeacher.Config):
        """others: sources of the other encoders. combine: "average", for encoders of one width, or "concatenate". weights: one per encoder,
        `source` first, for the average; empty: equal. norm: brings each frame of each layer to zero mean and unit variance first (ours, for
        encoders whose values differ in size; the paper does not say)."""

        others: tuple[str, ...] = ()
        combine: Literal["average", "concatenate"] = "average"
        weights: tuple[float, ...] = ()
        norm: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            count = 1 + len(self.others)
            if self.weights and (len(self.weights) != count or min(self.weights) < 0 or sum(self.weights) <= 0):
                raise ValueError(f"weights must be {count} numbers of at least 0 that are not all 0, one for each encoder")
            if self.weights and self.combine == "concatenate":
                raise ValueError("weights are for combine: average; leave them out")

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        super().__init__(config, settings)
        plain = EncoderTeacher.Config(precision=config.precision, tail=config.tail)
        self.others = [EncoderTeacher(dataclasses.replace(plain, source=source), settings) for source in config.others]
        widths = [super().shape.dim, *(teacher.shape.dim for teacher in self.others)]
        if config.combine == "average" and len(set(widths)) > 1:
            raise ValueError(f"encoders of widths {', '.join(map(str, widths))} have no average; set combine: concatenate")
        self.width = widths[0] if config.combine == "average" else sum(widths)
        weights = config.weights or (1.0,) * len(widths)
        self.weights = [weight / sum(weights) for weight in weights]

    @property
    def models(self) -> list[Teacher]:
        return [self, *self.others]

    @property
    def shape(self) -> EncoderShape:
        return dataclasses.replace(super().shape, dim=self.width)

    @property
    def gives_maps(self) -> bool:
        return False

    @torch.no_grad()
    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        if mask is not None and self.others:
            raise ValueError(
                "an ensemble cannot be asked about masked audio; set masked_teacher to false, or name its encoders apart"
            )
        first = self.features(batch, mask, taps)
        rest = [self.fitted(teacher, teacher.features(batch, taps=taps), first.last.shape[1]) for teacher in self.others]
        depth, all_features = len(first.hidden) - 1, [first, *rest]

        def at(features: Features, index: int) -> int:
            return index * (len(features.hidden) - 1) // depth

        hidden = [self.joined([each.hidden[at(each, i)] for each in all_features]) for i in range(depth + 1)]
        ffn = [self.joined([each.ffn[at(each, i) - 1] for each in all_features]) for i in range(1, depth + 1)] if taps else []
        embedded, last = (self.joined([getattr(each, name) for each in all_features]) for name in ("embedded", "last"))
        return Features(hidden, first.lengths, embedded, last, ffn)

    def fitted(self, teacher: EncoderTeacher, features: Features, frames: int) -> Features:
        """Another encoder's features on the `frames` frames of the first."""
        rate = self.shape.stride / teacher.shape.stride
        return features.on_frames(frames, rate=0.0 if rate == 1 else rate)

    def joined(self, states: list[Tensor]) -> Tensor:
        """One state of each encoder, (B, T, D) -> their average, (B, T, D), or all beside each other, (B, T, sum of D)."""
        if self.config.norm:
            states = [F.layer_norm(x.float(), x.shape[-1:]) for x in states]
        if self.config.combine == "concatenate":
            return torch.cat(states, dim=-1)
        return torch.stack([weight * x for weight, x in zip(self.weights, states, strict=True)]).sum(0)

    def fingerprint(self) -> str:
        config = dataclasses.replace(self.config, source="", others=())  # folders do not count
        members = [super().fingerprint(), *(teacher.fingerprint() for teacher in self.others)]
        return hashlib.sha256(f"{config} {' '.join(members)}".encode()).hexdigest()[:32]
