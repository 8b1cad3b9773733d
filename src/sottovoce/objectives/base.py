"""What every distillation objective is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.types import Answer, Batch, Features, Loss


@dataclass(frozen=True)
class EncoderShape:
    """What an objective may know of an encoder: its width and how many layers it has.

    stride: samples from one of its frames to the next; 0 where that is not known. Of a teacher as a student sees it: join: teacher
    frames per student frame; they are concatenated, and `dim` is the width of all of them. rate: the same where it is no whole number;
    the teacher's frames are then resampled to the student's (`types.resampled`). An utterance teacher has no layers: depth is 0.
    """

    dim: int
    depth: int
    stride: int = 0
    join: int = 1
    rate: float = 0.0

    def for_student(self, student: EncoderShape) -> EncoderShape:
        """This teacher as `student` sees it: frames as they are, joined or resampled."""
        if not self.stride or not student.stride or self.stride == student.stride:
            return self
        join, rest = divmod(student.stride, self.stride)
        if rest or not join:
            return replace(self, rate=student.stride / self.stride)
        return replace(self, dim=self.dim * join, join=join)


@dataclass(frozen=True)
class Needs:
    """What one objective needs.

    masked_input: it reads the student on input whose frames were masked. targets: of its teacher: "none"; "clean", what the teacher
    says about the clean audio; "masked", the same at masked frames and, at the others, what it says about the masked audio. layers: the
    teacher's hidden states that it reads, by number; ``None``: all. taps: the teacher's layers, from 1, whose feed-forward outputs it
    reads. compares_rows: it compares the rows of a batch, so that its loss depends on how batches are split.
    """

    masked_input: bool = False
    targets: Literal["none", "clean", "masked"] = "clean"
    layers: tuple[int, ...] | None = None
    taps: tuple[int, ...] = ()
    compares_rows: bool = False


def identity_(linear: nn.Linear, teacher: EncoderShape) -> nn.Linear:
    """`linear` set to say its input once for each frame that is joined, as far as the widths allow, without a bias."""
    with torch.no_grad():
        linear.weight.zero_()
        for frame in linear.weight.split(teacher.dim // teacher.join):
            frame.fill_diagonal_(1.0)
        if linear.bias is not None:
            linear.bias.zero_()
    return linear


class Objective(nn.Module):
    """Compares a student with one teacher (or with targets of its own) and returns sums, never means.

    A subclass is one file: ``@OBJECTIVES.register("name")``, a nested frozen ``Config`` whose defaults are the paper's values, `needs` and
    `forward`. Its parameters (projections, heads) are trained with the student. reads: whether it learns from a teacher of frames or
    from one of utterances.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    reads: ClassVar[Literal["frames", "utterance"]] = "frames"

    def __init__(self, config: Any, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__()
        self.config = config

    def needs(self) -> Needs:
        """What this objective, with its configuration, needs."""
        return Needs()

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) bool: the frames that count; of masked input the masked ones, unless a subclass says otherwise."""
        return valid & mask if self.needs().masked_input and mask is not None else valid

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        """What the loss of a batch is divided by: its `frames`. A subclass may count rows or tokens.

        Known before the forward pass, because it is summed over micro-batches and machines first.
        """
        return frames.sum()

    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """Once, before training: look at some data (clusters, statistics). The default needs none."""

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        """Sum of the loss over `frames`, or over whatever `denominator` counts."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        """Trained maps from student layers into the teacher's space, by name, and the student layers each serves. None by default."""
        return {}, {}


def rows_of(frames: Tensor) -> Tensor:
    """The number of rows, as a denominator of losses over recordings."""
    return torch.tensor(len(frames), device=frames.device)


def by_mask(mask: Tensor, alpha: float) -> Tensor:
    """Weights of frames: `alpha` where `mask`, 1 - `alpha` elsewhere (HuBERT, arXiv 2106.07447, eq. 3)."""
    masked = mask.float()
    return alpha * masked + (1 - alpha) * (1 - masked)


def layer_index(spec: str, depth: int) -> int:
    """'8' -> layer 8; '2/3' -> that share of the depth, rounded down (0 is the front end). ValueError when there is no such layer."""
    top, slash, bottom = str(spec).partition("/")
    try:
        index = int(top) * depth // int(bottom) if slash else int(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'{spec}' is no layer; write a number such as 8 or a share of the depth such as 2/3") from None
    if not 0 <= index <= depth:
        raise ValueError(f"there is no layer {index}; the encoder has layers 0 (front end) to {depth}")
    return index
