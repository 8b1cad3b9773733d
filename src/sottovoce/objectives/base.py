"""The base class of distillation objectives, and what several of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.types import Answer, Batch, Loss


@dataclass(frozen=True)
class EncoderShape:
    """The size of an encoder, as an objective sees it: width `dim` and number of layers `depth` (0 for an utterance teacher).

    stride: samples per frame; 0 if unknown. `for_student` sets the other two. join: teacher frames per student frame; they are
    concatenated, and `dim` is their width together. rate: the same if it is not a whole number; the teacher's frames are then resampled
    (`types.resampled`).
    """

    dim: int
    depth: int
    stride: int = 0
    join: int = 1
    rate: float = 0.0

    def for_student(self, student: EncoderShape) -> EncoderShape:
        """This teacher at the student's frame rate: unchanged, joined or resampled."""
        if not self.stride or not student.stride or self.stride == student.stride:
            return self
        join, rest = divmod(student.stride, self.stride)
        if rest or not join:
            return replace(self, rate=student.stride / self.stride)
        return replace(self, dim=self.dim * join, join=join)


@dataclass(frozen=True)
class Needs:
    """What an objective reads.

    masked_input: the student gets masked input. targets: the teacher's answers: "none"; "clean", for the clean audio; "masked", for the
    clean audio at masked frames and for the masked audio at visible frames; of its host, "outputs", the `Posteriors`, or "labels", the
    data's `Labels` in the host's tokens or classes. classes, temperature: of posteriors, see `posteriors.posteriors`. layers: numbers of
    the teacher's hidden states that it reads; ``None``: all. taps: teacher layers, from 1, whose feed-forward outputs it reads. maps:
    whether it reads attention maps of both. compares_rows: the loss compares the rows of a batch, so it depends on how batches are split.
    column: the field of ``data`` that must name a column ("text", "label"); "" for none.
    """

    masked_input: bool = False
    targets: Literal["none", "clean", "masked", "outputs", "labels"] = "clean"
    layers: tuple[int, ...] | None = None
    taps: tuple[int, ...] = ()
    maps: bool = False
    compares_rows: bool = False
    column: Literal["", "text", "label"] = ""
    classes: int = 0
    temperature: float = 1.0


def identity_(linear: nn.Linear, teacher: EncoderShape) -> nn.Linear:
    """Sets `linear` to the identity (one copy of its input per joined teacher frame, as far as the widths allow) and returns it."""
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
    `forward`. Its parameters (projections, heads) are trained with the student. reads: the kind of teacher, one that answers with frames
    or with one vector per utterance; "outputs" for objectives that read what the teacher's host (its recogniser, its classifier) says.
    kept: name of its module that stays with the student, a `ScoreHead`; "" for none.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    reads: ClassVar[Literal["frames", "utterance", "outputs"]] = "frames"
    kept: ClassVar[str] = ""

    def __init__(self, config: Any, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__()
        self.config = config

    def needs(self) -> Needs:
        """What this objective reads, with its configuration."""
        return Needs()

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) bool: the frames that count. By default the valid frames; for an objective on masked input, the masked ones."""
        return valid & mask if self.needs().masked_input and mask is not None else valid

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        """What the loss of a batch is divided by: the number of `frames`. A subclass may count rows or tokens.

        It must be known before the forward pass, because it is first summed over micro-batches and machines.
        """
        return frames.sum()

    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """Called once before training, for what must be estimated from data (clusters, statistics). Does nothing by default."""

    def forward(self, student: Any, teacher: Any, frames: Tensor, batch: Batch) -> Loss:
        """Sum of the loss over what `denominator` counts. student: its `Features`, (B, T, D). teacher: its `Answer`, or ``None``.
        frames: (B, T) bool, those that count.

        An objective that reads outputs gets the `Outputs` of the host with the student inside, `Posteriors` or `Labels`, and as frames the
        outputs or labels that count, (B, N) bool.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def meetings(self) -> dict[int, int]:
        """Student layer -> teacher layer, for layers whose outputs shall be equal, without a map between. None by default."""
        return {}

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        """Trained maps from student layers into the teacher's space: (name -> map, name -> student layers). None by default."""
        return {}, {}


def rows_of(frames: Tensor) -> Tensor:
    """The number of rows: the denominator of a loss per recording."""
    return torch.tensor(len(frames), device=frames.device)


def by_mask(mask: Tensor, alpha: float) -> Tensor:
    """Weights of frames: `alpha` where `mask`, 1 - `alpha` elsewhere (HuBERT, arXiv 2106.07447, eq. 3)."""
    masked = mask.float()
    return alpha * masked + (1 - alpha) * (1 - masked)


def layer_index(spec: str, depth: int) -> int:
    """Number of a layer: '8' is layer 8, '2/3' that share of `depth`, rounded down; 0 is the front end. ValueError if there is none."""
    top, slash, bottom = str(spec).partition("/")
    try:
        index = int(top) * depth // int(bottom) if slash else int(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'{spec}' is not a layer; write a number such as 8 or a share of the depth such as 2/3") from None
    if not 0 <= index <= depth:
        raise ValueError(f"there is no layer {index}; the encoder has layers 0 (front end) to {depth}")
    return index
