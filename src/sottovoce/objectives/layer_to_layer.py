"""DPHuBERT's distillation loss (Peng et al. 2023, arXiv 2305.17651)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, identity_, layer_index
from sottovoce.objectives.distance import Distance


@OBJECTIVES.register("layer_to_layer")
class LayerToLayer(Objective):
    """L1 plus cosine between projected student layers and the same teacher layers (DPHuBERT); or their squares (FitHuBERT).

    Per frame: ``l1 * mean |P h_s - h_t| - cosine * cos(P h_s, h_t)``, averaged over the chosen layers. P is one linear map per
    group of layers, identity at the start.
    """

    @dataclass(frozen=True)
    class Config(Distance):
        """layers: groups of layers that share a projection; numbers, or shares of the depth (0, 4, 8, 12 of 12 in the paper).

        weights: of each group's layers in the average; none for all alike.
        """

        layers: tuple[tuple[str, ...], ...] = (("0",), ("1/3", "2/3", "1/1"))
        weights: tuple[float, ...] = ()

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.weights and (len(self.weights) != len(self.layers) or min(self.weights) <= 0):
                raise ValueError(f"weights must be {len(self.layers)} numbers above 0, one for each group of layers")

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: LayerToLayer.Config = config
        self.pairs: list[tuple[str, int, int, float]] = []  # projection, student layer, teacher layer, share in the average
        self.maps = nn.ModuleDict()
        given = config.weights or (1.0,) * len(config.layers)
        every = sum(weight * len(group) for weight, group in zip(given, config.layers, strict=True))
        for weight, group in zip(given, config.layers, strict=True):
            own = [layer_index(spec, student.depth) for spec in group]
            name = "-".join(map(str, dict.fromkeys(own)))  # a shallow student's shares of the depth may fall on one layer
            if name in self.maps:
                raise ValueError(f"two groups of layers are the same student layers {name}; put them in one group")
            self.maps[name] = identity_(nn.Linear(student.dim, teacher.dim), teacher)
            others = [layer_index(spec, teacher.depth) for spec in group]
            self.pairs += [(name, mine, theirs, weight / every) for mine, theirs in zip(own, others, strict=True)]
        if not self.pairs:
            raise ValueError("layer_to_layer needs at least one layer to compare")

    def needs(self) -> Needs:
        return Needs(layers=tuple(sorted({theirs for _, _, theirs, _ in self.pairs})))

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        assert isinstance(teacher, Features)
        weight = frames.float()  # multiplied, not indexed: on a GPU a boolean index waits for the host
        parts: dict[str, Tensor] = {}
        for name, mine, theirs, share in self.pairs:
            ours, target = self.maps[name](student.hidden[mine]).float(), teacher.hidden[theirs].float()
            for key, each in self.config.parts(ours, target).items():
                parts[key] = parts.get(key, 0.0) + share * (each * weight).sum()
        return Loss(self.config.total(parts), {key: value.detach() for key, value in parts.items()})

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        layers: dict[str, list[int]] = {}
        for name, mine, *_ in self.pairs:
            if mine not in layers.setdefault(name, []):
                layers[name].append(mine)
        return {name: module for name, module in self.maps.items() if isinstance(module, nn.Linear)}, layers
