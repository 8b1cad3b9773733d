"""A model under evaluation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Features
from sottovoce.encoder import normalize
from sottovoce.evaluation.subjects.fingerprints import fingerprint
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.inference.packed import fastest

Role = Literal["student", "teacher", "control"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under evaluation: it gives `layers` hidden states of width `dim`, `frame_rate` frames a second.

    name: in results. role: in comparisons. normalize: whether waves are normalised first. fingerprint: hash of all that its output depends
    on. params, macs_per_s: ``None`` if unknown. origin: for our own students, the run that made it. source: where it was opened from, if a
    whole model (a host) may be there.
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
    source: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def features(self, batch: Batch) -> Features:
        """The encoder's output on decoded waves."""
        batch = batch.to(self.device)
        wave = normalize(batch.wave, batch.lengths) if self.normalize else batch.wave
        features: Features = self.encoder(wave, batch.lengths)
        return features

    @cached_property
    def frozen(self) -> Subject:
        """A copy for use without gradients, with a packed encoder on a CPU. Later changes of the weights have no effect."""
        return replace(self, encoder=fastest(self.encoder))

    @cached_property
    def host(self) -> Host:
        """The whole model that the encoder is a part of, on the subject's device. ValueError for an encoder alone."""
        host = load_host(self.source) if self.source else None
        if host is None:
            raise ValueError(
                f"{self.name} is an encoder alone, without a decoder or a head; name a whole model, e.g. openai/whisper-base"
            )
        return host.to(self.device).eval()

    @cached_property
    def host_fingerprint(self) -> str:
        """As `fingerprint`, of the whole model with its settings for decoding."""
        host = self.host
        settings: dict[str, Any] = getattr(getattr(host.rest, "generation_config", None), "to_dict", dict)()
        settings.pop("transformers_version", None)
        parts = [fingerprint(part, self.normalize) for part in (host.encoder, host.bridge, host.rest)]
        return hashlib.sha256(json.dumps([*parts, settings], sort_keys=True, default=str).encode()).hexdigest()[:32]

    @torch.inference_mode()
    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, L, D) hidden states as in `stacked`, and (B,) valid frames."""
        features = self.frozen.features(batch)
        return self.stacked(features), frames_of(features)

    def stacked(self, features: Features) -> Tensor:
        """(B, T, L, D) hidden states as transformers lists them: the input of the first layer, then the output of each layer, the last
        one normalised if the model does so."""
        layers = [features.last] if self.layers == 1 else [features.embedded, *features.hidden[1:-1], features.last]
        return torch.stack(layers, dim=2)

    def to(self, device: torch.device) -> Subject:
        return replace(self, encoder=self.encoder.to(device), device=device)

    def record(self) -> dict[str, Any]:
        """The model's part of a record."""
        keys = ("name", "role", "fingerprint", "params", "macs_per_s", "layers", "dim", "frame_rate", "family", "origin")
        return {key: getattr(self, key) for key in keys}


def frames_of(features: Features) -> Tensor:
    """(B,) valid frames; all frames if no row is padded."""
    if features.lengths is not None:
        return features.lengths
    return torch.full((len(features.last),), features.last.shape[1], device=features.last.device)
