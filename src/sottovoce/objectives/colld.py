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
    """Frames (B, T) bool that are compared in one way."""

    name: str
    kind: Kind
    weight: float
    inside: Tensor


@OBJECTIVES.register("colld")
class Colld(Objective):
    """InfoNCE between what each student layer predicts at masked frames and what a teacher layer says there of the clean audio (CoLLD).

    For student layer k of K compared ones: a head maps the layer's output to the teacher's width; its positive is the teacher layer's
    feed-forward output at the same frame, its distractors those of other masked frames of the utterance. The student's input is
    masked, the teacher's is not. Mean over layers, sum over frames.
    """

    @dataclass(frozen=True)
    class Config(Distance):
        """What the paper's reachable text leaves open has values of ours (wav2vec 2.0's for temperature and distractors).

        layers: how many are compared; layer k of the student is floor(k depth / layers), of the teacher likewise; 0: every student layer
        (dense). target: the teacher layer's feed-forward output before the residual sum, or its block's output.
        mask: hide frames from the student; without, all frames count as hidden. hidden, visible: what is compared at the frames that the
        student does not see, and at the others; "distance" is that of the fields l1, cosine, mse. visible_weight: of the latter.
        distractors: per utterance; 0: all its other frames. head: one linear map, or two with a ReLU between (USAD).
        layer_weights: one per compared layer; equal when empty. masked_teacher: targets of visible frames come from a second pass of the
        teacher, over the masked input, so that they lack the same context (ARMHuBERT, Jang et al. 2023, arXiv 2305.11685).
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
                raise ValueError("hidden and visible are both 'none': there is nothing to learn from")
            if not self.mask and self.hidden == "none":
                raise ValueError("without a mask all frames count as hidden, so hidden must not be 'none'")
            if self.temperature <= 0 or self.distractors < 0 or self.layers < 0:
                raise ValueError("temperature must be above 0, distractors and layers at least 0")
            if self.masked_teacher and (not self.mask or self.visible == "none"):
                raise ValueError("masked_teacher is about visible frames: it needs mask: true and a visible other than 'none'")

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
        theirs = tuple(sorted({layer for _, layer in self.pairs}))
        return Needs(
            masked_input=self.config.mask,
            targets="masked" if self.config.masked_teacher else "clean",
            layers=() if self.config.target == "ffn" else theirs,
            taps=theirs if self.config.target == "ffn" else (),
        )

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        both = self.config.hidden != "none" and self.config.visible != "none"
        if mask is None or both:
            return valid
        return valid & (mask if self.config.visible == "none" else ~mask)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        parts = self.split(frames, student.mask)
        drawn = {}
        for part in parts:
            at, there = contrast.packed(part.inside)
            drawn[part.name] = at, there, contrast.distractors(there, self.config.distractors, self.training)
        logs: dict[str, Tensor] = {}
        total = student.last.new_zeros((), dtype=torch.float32)
        for weight, head, (mine, theirs) in zip(self.weights, self.heads, self.pairs, strict=True):
            source = teacher.ffn[theirs - 1] if self.config.target == "ffn" else teacher.hidden[theirs]
            for part in parts:
                at, there, others = drawn[part.name]
                ours, target = head(contrast.pick(student.hidden[mine], at)).float(), contrast.pick(source, at).float()
                if part.kind == "contrast":
                    each, right = contrast.info_nce(ours, target, there, others, self.config.temperature)
                    found = {"contrast": each, "accuracy": right.float()}
                else:
                    found = self.config.parts(ours, target)
                    each = self.config.total(found)
                total = total + weight * part.weight * (each * there).sum()
                for key, value in found.items():
                    name = key if part.name == "hidden" else f"visible_{key}"
                    logs[name] = logs.get(name, 0.0) + weight * (value.detach() * there).sum() * frames.sum() / there.sum().clamp(
                        min=1
                    )
        return Loss(total, logs)

    def split(self, frames: Tensor, mask: Tensor | None) -> list[FrameSet]:
        """The frames that are hidden from the student and those that are not, of the ones that count."""
        hidden = frames if mask is None else frames & mask
        parts = [
            FrameSet("hidden", self.config.hidden, 1.0, hidden),
            FrameSet("visible", self.config.visible, self.config.visible_weight, frames & ~hidden),
        ]
        return [part for part in parts if part.kind != "none"]
