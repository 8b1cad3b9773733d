"""DistilHuBERT's objective (Chang, Yang, Lee, ICASSP 2022, arXiv 2110.01900): predict teacher layers from the student's last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index
from sottovoce.objectives.distance import Distance


@OBJECTIVES.register("prediction_heads")
class PredictionHeads(Objective):
    """L1 plus log-sigmoid cosine distance to teacher layers, each predicted from the student's last layer by its own head.

    A head is a linear map to the teacher's width, a GELU and a second linear map. Heads are dropped after training. The loss is the mean
    over teacher layers.
    """

    @dataclass(frozen=True)
    class Config(Distance):
        """layers: the teacher's, numbers or shares of its depth (4, 8, 12 of 12 in the paper). l1, cosine: 1 in the paper."""

        layers: tuple[str, ...] = ("1/3", "2/3", "1/1")
        cosine_kind: Literal["raw", "log_sigmoid"] = "log_sigmoid"

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: PredictionHeads.Config = config
        self.targets = [layer_index(spec, teacher.depth) for spec in config.layers]
        if not self.targets:
            raise ValueError("prediction_heads needs at least one teacher layer to predict")
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(student.dim, teacher.dim), nn.GELU(), nn.Linear(teacher.dim, teacher.dim))
            for _ in self.targets
        )

    def needs(self) -> Needs:
        return Needs(layers=tuple(sorted(set(self.targets))))

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        weight, logs, totals = frames.float(), {}, []
        for index, head in zip(self.targets, self.heads, strict=True):
            parts = self.config.parts(head(student.hidden[-1]).float(), teacher.hidden[index].float())
            loss = (self.config.total(parts) * weight).sum()
            totals.append(loss)
            logs[f"layer_{index}"] = loss.detach()
        return Loss(torch.stack(totals).mean(), logs)
