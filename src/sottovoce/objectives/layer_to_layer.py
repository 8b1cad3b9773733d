"""DPHuBERT's distillation loss (Peng et al. 2023, arXiv 2305.17651)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, identity_, layer_index
from sottovoce.objectives.distance import Distance
from sottovoce.objectives.scale import Scale, few


@OBJECTIVES.register("layer_to_layer")
class LayerToLayer(Objective):
    """L1 and cosine distance (DPHuBERT) or squared distance (FitHuBERT) between projected student layers and teacher layers.

    Per frame: ``l1 * mean |P h_s - h_t| - cosine * cos(P h_s, h_t)``, averaged over the chosen layers. P is one linear map per
    group of layers; it starts as the identity.
    """

    @dataclass(frozen=True)
    class Config(Distance):
        """layers: groups of layers that share a projection; numbers, or shares of the depth (0, 4, 8, 12 of 12 in the paper).

        weights: one per group, for each of its layers in the average; empty: equal. map: "linear", or "none": the student's layers are
        compared as they are, so that they can take the teacher's place; the student must be as wide.

        standardize: compares teacher layers with every dimension at zero mean and unit variance over the first training batches. Otherwise
        a few large dimensions decide the distance in teachers such as Whisper, whose values reach 400.
        """

        layers: tuple[tuple[str, ...], ...] = (("0",), ("1/3", "2/3", "1/1"))
        weights: tuple[float, ...] = ()
        map: Literal["linear", "none"] = "linear"
        standardize: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.weights and (len(self.weights) != len(self.layers) or min(self.weights) <= 0):
                raise ValueError(f"weights must be {len(self.layers)} numbers above 0, one for each group of layers")
            if self.standardize and self.map == "none":
                raise ValueError("standardize compares in another space than the student's, which needs map: linear")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: LayerToLayer.Config = config
        self.pairs: list[tuple[str, int, int, float]] = []  # projection, student layer, teacher layer, weight in the average
        self.maps = nn.ModuleDict()
        if config.map == "none" and student.dim != teacher.dim:
            raise ValueError(
                f"map: none needs a student as wide as its teacher at the same frame rate; they are {student.dim} and {teacher.dim} wide"
            )
        weights = config.weights or (1.0,) * len(config.layers)
        total = sum(weight * len(group) for weight, group in zip(weights, config.layers, strict=True))
        for weight, group in zip(weights, config.layers, strict=True):
            layers = [layer_index(spec, student.depth) for spec in group]
            name = "-".join(map(str, dict.fromkeys(layers)))  # in a shallow student, several shares may mean one layer
            if name in self.maps:
                raise ValueError(f"two groups of layers are the same student layers {name}; put them in one group")
            self.maps[name] = identity_(nn.Linear(student.dim, teacher.dim), teacher).requires_grad_(config.map == "linear")
            targets = [layer_index(spec, teacher.depth) for spec in group]
            self.pairs += [(name, layer, target, weight / total) for layer, target in zip(layers, targets, strict=True)]
        if not self.pairs:
            raise ValueError("layer_to_layer needs at least one layer to compare")
        read = sorted({str(target) for _, _, target, _ in self.pairs}) if config.standardize else []
        self.scales = nn.ModuleDict({target: Scale(teacher.dim) for target in read})

    def needs(self) -> Needs:
        return Needs(layers=tuple(sorted({layer for _, _, layer, _ in self.pairs})))

    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        if not self.scales:
            return
        seen: dict[str, list[Tensor]] = {target: [] for target in self.scales}
        for _, answer in few(batches):
            assert isinstance(answer, Features)
            for target, rows in seen.items():
                rows.append(answer.hidden[int(target)][answer.valid()].float())
        for target, rows in seen.items():
            self.scale(target).set(torch.cat(rows))

    def scale(self, target: int | str) -> Scale:
        """The standardisation of a teacher layer."""
        scale = self.scales[str(target)]
        assert isinstance(scale, Scale)
        return scale

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        weight = frames.float()  # multiplied, not indexed: on a GPU a boolean index waits for the host
        parts: dict[str, Tensor] = {}
        for name, student_layer, teacher_layer, share in self.pairs:
            output, target = student.hidden[student_layer], teacher.hidden[teacher_layer].float()
            output = (self.maps[name](output) if self.config.map == "linear" else output).float()
            if self.scales:
                target = self.scale(teacher_layer)(target)
            for key, value in self.config.parts(output, target).items():
                parts[key] = parts.get(key, 0.0) + share * (value * weight).sum()
        return Loss(self.config.total(parts), {key: value.detach() for key, value in parts.items()})

    def meetings(self) -> dict[int, int]:
        return {layer: target for _, layer, target, _ in self.pairs} if self.config.map == "none" else {}

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        layers: dict[str, list[int]] = {}
        for name, layer, *_ in self.pairs:
            if layer not in layers.setdefault(name, []):
                layers[name].append(layer)
        maps = {name: module for name, module in self.maps.items() if isinstance(module, nn.Linear)}
        if self.scales:  # into the teacher's own space; a group's last teacher layer decides
            maps = {name: self.scale(target).undone(maps[name]) for name, _, target, _ in self.pairs}
        return maps, layers
