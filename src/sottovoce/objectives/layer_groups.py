"""SKILL: distillation of groups of alike teacher layers (Zampierin et al. 2024, arXiv 2402.16830)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.similarity import linear_cka
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Objective, identity_
from sottovoce.objectives.distance import Distance


@OBJECTIVES.register("layer_groups")
class LayerGroups(Objective):
    """DPHuBERT's loss to the mean of each group of alike teacher layers, instead of to single layers (SKILL).

    Before training, `fit` measures how alike the teacher's layers are (linear CKA) and joins them into groups by average linkage. The
    student learns a group's mean at the group's last layer, through one projection for all groups. The front end is compared through
    another one, as in DPHuBERT. Until `fit` is called, the groups are equal stretches of layers.
    """

    group: Tensor

    @dataclass(frozen=True)
    class Config(Distance):
        """groups: their number (ours: as many as DPHuBERT has layers). front: compares the front end, too. fit_frames: frames of the data
        that the likeness is measured on (ours)."""

        groups: int = 3
        front: bool = True
        fit_frames: int = 5_000

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: LayerGroups.Config = config
        if not 1 <= config.groups <= teacher.depth:
            raise ValueError(f"layer_groups cannot make {config.groups} groups of the teacher's {teacher.depth} layers")
        self.depths = (student.depth, teacher.depth)
        self.maps = nn.ModuleDict({"groups": identity_(nn.Linear(student.dim, teacher.dim), teacher)})
        if config.front:
            self.maps["0"] = identity_(nn.Linear(student.dim, teacher.dim), teacher)
        # the group of each layer from 1 on
        self.register_buffer("group", torch.arange(teacher.depth) * config.groups // teacher.depth)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """Finds the groups from the first `fit_frames` frames. ValueError if there are fewer than two."""
        states: list[list[Tensor]] = []
        for _, teacher in batches:
            assert isinstance(teacher, Features)
            valid = teacher.valid()
            states.append([layer[valid].float() for layer in teacher.hidden[1:]])
            if sum(len(layers[0]) for layers in states) >= self.config.fit_frames:
                break
        layers = [torch.cat(layer)[: self.config.fit_frames] for layer in zip(*states, strict=True)]
        if not layers or len(layers[0]) < 2:
            raise ValueError("the data has too little audio to compare the teacher's layers; add recordings")
        likeness = torch.tensor([[linear_cka(x, y) for y in layers] for x in layers])
        groups = average_linkage(likeness, self.config.groups)
        for number, members in enumerate(sorted(groups, key=max)):
            self.group[members] = number

    def pairs(self) -> list[tuple[str, int, list[int]]]:
        """(projection, student layer, teacher layers whose mean it learns) of each group."""
        students, teachers = self.depths
        group = self.group.tolist()
        pairs = [("0", 0, [0])] if self.config.front else []
        for number in range(self.config.groups):
            members = [layer for layer, each in enumerate(group, 1) if each == number]
            pairs.append(("groups", max(1, members[-1] * students // teachers), members))
        return pairs

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        weight, parts, pairs = frames.float(), dict[str, Tensor](), self.pairs()
        for name, layer, members in pairs:
            target = torch.stack([teacher.hidden[i].float() for i in members]).mean(0)
            output = self.maps[name](student.hidden[layer]).float()
            for key, value in self.config.parts(output, target).items():
                parts[key] = parts.get(key, 0.0) + (value * weight).sum() / len(pairs)
        return Loss(self.config.total(parts), {key: value.detach() for key, value in parts.items()})

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        layers: dict[str, list[int]] = {}
        for name, layer, _ in self.pairs():
            if layer not in layers.setdefault(name, []):
                layers[name].append(layer)
        return {name: module for name, module in self.maps.items() if isinstance(module, nn.Linear)}, layers


def average_linkage(likeness: Tensor, count: int) -> list[list[int]]:
    """Groups the rows of a symmetric (N, N) matrix: joins the two groups with the highest mean likeness until `count` are left."""
    groups = [[i] for i in range(len(likeness))]
    while len(groups) > count:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        i, j = max(pairs, key=lambda pair: float(likeness[groups[pair[0]]][:, groups[pair[1]]].mean()))
        groups[i] += groups.pop(j)
    return [sorted(group) for group in groups]
