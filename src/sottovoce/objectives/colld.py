"""CoLLD: contrastive layer-to-layer distillation with masked prediction (Chang et al. 2023, arXiv 2309.07707), and its controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives import contrast
from sottovoce.objectives.base import EncoderShape, Needs, Objective
from sottovoce.objectives.distance import Distance

Kind = Literal["contrast", "distance", "none"]


class FrameSet(NamedTuple):
    """Frames (B, T) bool that are compared in the same way."""

    name: str
    kind: Kind
    weight: float
    frames: Tensor


@OBJECTIVES.register("colld")
class Colld(Objective):
    """InfoNCE at masked frames between student layers and teacher layers that heard the clean audio (CoLLD).

    A head maps the output of each compared student layer to the teacher's width. The positive is the teacher layer's feed-forward output
    at the same frame; the distractors are its outputs at other masked frames of the utterance. Mean over layers, sum over frames.
    """

    @dataclass(frozen=True)
    class Config(Distance):
        """The defaults are ours where the paper's text was not available (temperature and distractors: wav2vec 2.0's).

        layers: number of compared layers; the k-th is layer floor(k depth / layers) of each model; 0: every student layer.
        target: the teacher layer's feed-forward output before the residual sum, or its block's output.
        mask: masks the student's input; if false, all frames count as hidden. hidden, visible: the loss at masked frames and at the
        others; "distance" is set by l1, cosine and mse. visible_weight: weight of the loss at visible frames.
        distractors: number per utterance; 0: all its other frames. head: one linear map, or two with a ReLU between (USAD).
        layer_weights: one per compared layer; empty: equal. masked_teacher: takes the targets of visible frames from a second teacher pass
        over the masked input, so that teacher and student lack the same context (ARMHuBERT, Jang et al. 2023, arXiv 2305.11685).
        """

        layers: int = 0
        target: Literal["ffn", "block"] = "ffn"
        mask: bool = True
        hidden: Kind = "contrast"
        visible: Kind = "none"
        visible_weight: float = 1.0
        temperature: float = 0.1
        distractors: int = 100
        head: Literal["linear", "mlp"] = "linear"
        layer_weights: tuple[float, ...] = ()
        masked_teacher: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.hidden == self.visible == "none":
                raise ValueError(
                    "hidden and visible are both 'none', so there is no loss; set one of them to contrast or distance"
                )
            if not self.mask and self.hidden == "none":
                raise ValueError("without a mask all frames count as hidden, so hidden must not be 'none'")
            if self.temperature <= 0 or self.distractors < 0 or self.layers < 0:
                raise ValueError("temperature must be above 0, distractors and layers at least 0")
            if self.masked_teacher and (not self.mask or self.visible == "none"):
                raise ValueError("masked_teacher changes the targets of visible frames; set mask: true and visible to a loss")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: Colld.Config = config
        count = config.layers or student.depth
        if count > student.depth:
            raise ValueError(f"colld cannot compare {count} layers: the student has {student.depth}")
        weights = config.layer_weights or (1.0,) * count
        if len(weights) != count or sum(weights) <= 0:
            raise ValueError(f"layer_weights must hold {count} numbers, one per compared layer, with a sum above 0")
        self.pairs = [(k * student.depth // count, k * teacher.depth // count) for k in range(1, count + 1)]
        self.weights = [weight / sum(weights) for weight in weights]
        self.heads = nn.ModuleList(self.make_head(student.dim, teacher.dim) for _ in self.pairs)

    def make_head(self, width: int, target: int) -> nn.Module:
        if self.config.head == "linear":
            return nn.Linear(width, target)
        return nn.Sequential(nn.Linear(width, target), nn.ReLU(), nn.Linear(target, target))

    def needs(self) -> Needs:
        layers = tuple(sorted({layer for _, layer in self.pairs}))
        return Needs(
            masked_input=self.config.mask,
            targets="masked" if self.config.masked_teacher else "clean",
            layers=() if self.config.target == "ffn" else layers,
            taps=layers if self.config.target == "ffn" else (),
        )

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        both = self.config.hidden != "none" and self.config.visible != "none"
        if mask is None or both:
            return valid
        return valid & (mask if self.config.visible == "none" else ~mask)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        sets = self.split(frames, student.mask)
        packed = {}
        for each in sets:
            at, valid = contrast.packed(each.frames)
            packed[each.name] = at, valid, contrast.distractors(valid, self.config.distractors, self.training)
        logs: dict[str, Tensor] = {}
        total = student.last.new_zeros((), dtype=torch.float32)
        for weight, head, (student_layer, teacher_layer) in zip(self.weights, self.heads, self.pairs, strict=True):
            source = teacher.ffn[teacher_layer - 1] if self.config.target == "ffn" else teacher.hidden[teacher_layer]
            for each in sets:
                at, valid, others = packed[each.name]
                output = head(contrast.pick(student.hidden[student_layer], at)).float()
                target = contrast.pick(source, at).float()
                if each.kind == "contrast":
                    loss, correct = contrast.info_nce(output, target, valid, others, self.config.temperature)
                    parts = {"contrast": loss, "accuracy": correct.float()}
                else:
                    parts = self.config.parts(output, target)
                    loss = self.config.total(parts)
                total = total + weight * each.weight * (loss * valid).sum()
                for key, value in parts.items():
                    name = key if each.name == "hidden" else f"visible_{key}"
                    mean = (value.detach() * valid).sum() * frames.sum() / valid.sum().clamp(min=1)
                    logs[name] = logs.get(name, 0.0) + weight * mean
        return Loss(total, logs)

    def split(self, frames: Tensor, mask: Tensor | None) -> list[FrameSet]:
        """Splits the counted frames into masked and visible ones; leaves out those without a loss."""
        hidden = frames if mask is None else frames & mask
        sets = [
            FrameSet("hidden", self.config.hidden, 1.0, hidden),
            FrameSet("visible", self.config.visible, self.config.visible_weight, frames & ~hidden),
        ]
        return [each for each in sets if each.kind != "none"]
