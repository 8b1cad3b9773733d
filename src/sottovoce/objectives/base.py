"""What every distillation objective is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Features, Loss


@dataclass(frozen=True)
class Shape:
    """What an objective may know of an encoder: its width and how many layers it has.

    stride: samples from one of its frames to the next; 0 where that is not known. join: how many of its frames each of the student's
    stands for; they lie beside one another, and `dim` is the width of all of them.
    """

    dim: int
    depth: int
    stride: int = 0
    join: int = 1

    def for_student(self, student: Shape) -> Shape:
        """This teacher as `student` sees it. ValueError unless the student's frames are whole numbers of the teacher's."""
        if not self.stride or not student.stride or self.stride == student.stride:
            return self
        join, rest = divmod(student.stride, self.stride)
        if rest or not join:
            raise ValueError(
                f"the student's frames are {student.stride} samples apart and the teacher's {self.stride}: "
                "one frame of the student must stand for a whole number of the teacher's"
            )
        return replace(self, dim=self.dim * join, join=join)


def identity_(linear: nn.Linear, teacher: Shape) -> nn.Linear:
    """`linear` set to say its input once for each frame that is joined, as far as the widths allow, without a bias."""
    with torch.no_grad():
        linear.weight.zero_()
        for frame in linear.weight.split(teacher.dim // teacher.join):
            frame.fill_diagonal_(1.0)
        if linear.bias is not None:
            linear.bias.zero_()
    return linear


class Objective(nn.Module):
    """Compares a student with its teacher (or with targets of its own) and returns sums, never means.

    A subclass is one file: ``@OBJECTIVES.register("name")``, a nested frozen ``Config`` whose defaults are the paper's values, and
    `forward`. Its parameters (projections, heads) are trained with the student. Class attributes say what it needs.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    needs_teacher: ClassVar[bool] = True
    masked: ClassVar[bool] = False  # reads a student whose input frames were masked, and counts masked frames only
    teacher_taps: ClassVar[bool] = False  # reads the teacher's feed-forward outputs
    masked_teacher: ClassVar[bool] = False  # at frames the student sees, wants what the teacher says of the masked input
    contrasts_rows: ClassVar[bool] = False  # compares the rows of a batch, so that its loss depends on how batches are split

    def __init__(self, config: Any, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.config = config

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T) bool: the frames that count. Known before the forward pass, so that the loop can divide by the global number."""
        return valid & mask if self.masked and mask is not None else valid

    def fit(self, batches: Iterable[tuple[Batch, Features | None]]) -> None:
        """Once, before training: look at some data (clusters, statistics). The default needs none."""

    def forward(self, student: Features, teacher: Features | None, frames: Tensor, batch: Batch) -> Loss:
        """Sum of the loss over `frames`; `Loss.count` is ``frames.sum()``."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        """Trained maps from student layers into the teacher's space, by name, and the student layers each serves. None by default."""
        return {}, {}


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
