"""How much of the teacher is still in the student, layer by layer, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.registry import TASKS
from sottovoce.tasks.base import Task
from sottovoce.types import Batch


@TASKS.register("fidelity")
class Fidelity(Task):
    """Per-layer cosine to the teacher, as is and after the best linear map; needs no labels."""

    @dataclass(frozen=True)
    class Config:
        """frames: at most so many frames are compared. ridge: regularisation of the linear map, as a share of the mean variance."""

        frames: int = 20_000
        ridge: float = 1e-3

    @torch.no_grad()
    def run(self, model: nn.Module, reference: nn.Module, batches: Sequence[Batch]) -> dict[str, Any]:
        """`layers`: per student layer the cosine to the teacher's layer at the same share of the depth (mean over frames), and
        the same after a linear map fitted on every other batch and measured on the rest. ValueError without audio."""
        pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
        heard = 0
        for batch in batches:
            ours = model(batch.wave, batch.lengths)
            theirs = reference(batch.wave, batch.lengths).on_frames(ours.last.shape[1])
            valid = ours.valid()
            depth, height = len(ours.hidden) - 1, len(theirs.hidden) - 1
            for layer in range(depth + 1):
                target = theirs.hidden[layer * height // depth]
                pairs.setdefault(layer, []).append((ours.hidden[layer][valid].float(), target[valid].float()))
            heard += int(valid.sum())
            if heard >= self.config.frames:
                break
        if not pairs:
            raise ValueError("there is no held-out audio to compare on")
        layers = [{"layer": layer, **self.compare(found)} for layer, found in sorted(pairs.items())]
        mean = {key: sum(row[key] for row in layers[1:]) / max(1, len(layers) - 1) for key in layers[0] if key != "layer"}
        return {"frames": heard, "mean": mean, "layers": layers}

    def compare(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """cosine: as is (0 when the widths differ); mapped: after the linear map; explained: share of variance that the map gives."""
        if len(pairs) == 1:  # one batch: split it in time
            x, y = pairs[0]
            half = len(x) // 2
            pairs = [(x[:half], y[:half]), (x[half:], y[half:])]
        fit_x, fit_y = (torch.cat([pair[i] for pair in pairs[::2]]) for i in (0, 1))
        x, y = (torch.cat([pair[i] for pair in pairs[1::2]]) for i in (0, 1))
        mean_x, mean_y = fit_x.mean(0), fit_y.mean(0)
        a, b = (fit_x - mean_x).double(), (fit_y - mean_y).double()
        gram = a.T @ a
        gram.diagonal().add_(self.config.ridge * gram.diagonal().mean() + 1e-9)
        weight = torch.linalg.solve(gram, a.T @ b).float()
        mapped = (x - mean_x) @ weight + mean_y
        everything, target = torch.cat([fit_x, x]), torch.cat([fit_y, y])
        same = everything.shape[1] == target.shape[1]
        return {
            "cosine": float(F.cosine_similarity(everything, target, dim=-1).mean()) if same else 0.0,
            "mapped": float(F.cosine_similarity(mapped, y, dim=-1).mean()),
            "explained": float(1 - (mapped - y).square().sum() / (y - mean_y).square().sum()),
        }
