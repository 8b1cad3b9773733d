"""STaR: distillation of the relations between frames (Jang, Kim, Yun 2024, arXiv 2312.09040)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, rows_of


@OBJECTIVES.register("temporal_relation")
class TemporalRelation(Objective):
    """Squared distance between the temporal Gram matrices of student and teacher, (T, T) per recording (STaR).

    Layer-wise: ``H_l H_l^T / D`` of the same layer. Intra-layer: ``H_(l-1) H_l^T / D``, a layer's input with its output. Attention: the
    attention maps of the same layer, averaged over heads. No projection is needed, because widths and heads drop out. Student layer l of
    L is compared with layer floor(l M / L) of the teacher's M.
    """

    @dataclass(frozen=True)
    class Config:
        """layerwise, intra, attention: weights of the losses; each is a mean over layers. front: the layer-wise loss of the front end, too.

        The official code has no training loss: the weights, the division by the width and the mean over T^2 entries are our reading, as
        is the form of the attention loss, a squared distance for each frame's shares, averaged over frames. The paper tries it beside the
        other two; the published student has none.
        """

        layerwise: float = 1.0
        intra: float = 1.0
        attention: float = 0.0
        front: bool = True

        def __post_init__(self) -> None:
            weights = (self.layerwise, self.intra, self.attention)
            if min(weights) < 0 or not any(weights):
                raise ValueError("layerwise, intra and attention must be at least 0, and one of them above 0")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: TemporalRelation.Config = config
        if config.attention and (teacher.join > 1 or teacher.rate):
            raise ValueError(
                "attention maps can be compared only at the teacher's frame rate; set attention: 0 or student.join=1"
            )
        self.pairs = pairs = [(i, max(1, i * teacher.depth // student.depth)) for i in range(1, student.depth + 1)]
        # kind, (student's first and second layer), (teacher's)
        self.grams: list[tuple[str, tuple[int, int], tuple[int, int]]] = []
        if config.layerwise:
            same = [(0, 0), *pairs] if config.front else pairs
            self.grams += [("layerwise", (i, i), (j, j)) for i, j in same]
        if config.intra:
            self.grams += [("intra", (i - 1, i), (j - 1, j)) for i, j in pairs]

    def needs(self) -> Needs:
        layers = {layer for _, _, both in self.grams for layer in both}
        return Needs(layers=tuple(sorted(layers)), maps=bool(self.config.attention))

    def denominator(self, frames: Tensor, batch: Batch) -> Tensor:
        return rows_of(frames)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        """Sum over rows; a row's loss is the mean over its pairs of valid frames."""
        assert isinstance(teacher, Features)
        share = frames.float() / frames.sum(1, keepdim=True).clamp(min=1)
        parts: dict[str, Tensor] = {}
        count = {kind: sum(each == kind for each, *_ in self.grams) for kind, *_ in self.grams}
        for kind, ours, theirs in self.grams:
            difference = gram(student.hidden[ours[0]], student.hidden[ours[1]])
            difference = difference - gram(teacher.hidden[theirs[0]], teacher.hidden[theirs[1]])
            mean = torch.einsum("bs,bst,bt->", share, difference.square(), share)
            parts[kind] = parts.get(kind, 0.0) + mean / count[kind]
        if self.config.attention:
            each = [self.attention(student.maps[i - 1], teacher.maps[j - 1], frames) for i, j in self.pairs]
            parts["attention"] = torch.stack(each).mean(0)
        total = torch.stack([getattr(self.config, kind) * value for kind, value in parts.items()]).sum()
        return Loss(total, {kind: value.detach() for kind, value in parts.items()})

    def attention(self, ours: Tensor, theirs: Tensor, frames: Tensor) -> Tensor:
        """Sum over rows of the mean over valid frames of the squared distance between (B, T, T) maps, a sum over the frames seen."""
        far = (ours.float() - theirs.float()).square() * frames[:, None]
        share = frames.float() / frames.sum(1, keepdim=True).clamp(min=1)
        return (far.sum(-1) * share).sum()


def gram(x: Tensor, y: Tensor) -> Tensor:
    """(B, T, D) and (B, T, D) -> (B, T, T): products of frames of x with frames of y, divided by the width."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ y.float().transpose(1, 2) / x.shape[-1]
