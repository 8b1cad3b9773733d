"""What is under evaluation: any encoder, or a control, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Features
from sottovoce.encoder import normalize
from sottovoce.inference.packed import fastest

Role = Literal["student", "teacher", "control"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A frozen model as probes see it: `layers` feature maps of width `dim`, `frame_rate` frames a second.

    name: as results show it. role: who it is in a comparison. fingerprint: hex digest of everything that decides its output; equal
    models have equal ones. params, macs_per_s: ``None`` where the shape is not known. origin: of our own students, the run behind it.
    """

    name: str
    role: Role
    encoder: nn.Module
    normalize: bool
    layers: int
    dim: int
    frame_rate: float
    fingerprint: str
    family: str
    params: float | None = None
    macs_per_s: float | None = None
    origin: dict[str, Any] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def features(self, batch: Batch) -> Features:
        """The encoder's own output on waves as decoded."""
        batch = batch.to(self.device)
        wave = normalize(batch.wave, batch.lengths) if self.normalize else batch.wave
        features: Features = self.encoder(wave, batch.lengths)
        return features

    @cached_property
    def frozen(self) -> Subject:
        """The same for use without gradients: on a CPU, with the encoder packed. Weights that change later are not seen."""
        return replace(self, encoder=fastest(self.encoder))

    @torch.inference_mode()
    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, L, D) `stacked` hidden states, and (B,) valid frames."""
        features = self.frozen.features(batch)
        return self.stacked(features), frames_of(features)

    def stacked(self, features: Features) -> Tensor:
        """(B, T, L, D) hidden states as transformers lists them (what the first layer reads, then every layer's output, the last one
        normed where the model does so)."""
        layers = [features.last] if self.layers == 1 else [features.embedded, *features.hidden[1:-1], features.last]
        return torch.stack(layers, dim=2)

    def to(self, device: torch.device) -> Subject:
        return replace(self, encoder=self.encoder.to(device), device=device)

    def record(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        keys = ("name", "role", "fingerprint", "params", "macs_per_s", "layers", "dim", "frame_rate", "family", "origin")
        return {key: getattr(self, key) for key in keys}


def frames_of(features: Features) -> Tensor:
    """(B,) valid frames, counted out where no row is padded."""
    if features.lengths is not None:
        return features.lengths
    return torch.full((len(features.last),), features.last.shape[1], device=features.last.device)
