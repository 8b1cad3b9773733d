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
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.evaluation.subjects.fingerprints import fingerprint
from sottovoce.evaluation.subjects.rater import HeadRater, JudgeRater, Rater
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.inference.packed import fastest

Role = Literal["student", "teacher", "control"]
Ability = Literal["features", "host", "scores"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under evaluation: it gives `layers` hidden states of width `dim`, `frame_rate` frames a second.

    name: in results. role: in comparisons. normalize: whether waves are normalised first. fingerprint: hash of all that its output depends
    on. params, macs_per_s: ``None`` if unknown. origin: for our own students, the run that made it. source: where it was opened from, if a
    whole model (a host) may be there. scores: a student's heads that score recordings; file: an exported file with such heads. judge: of a
    quality model, which has no features, the teacher that it is.
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
    scores: ScoreHeads | None = None
    file: Rater | None = None
    judge: Any = None
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
        settings |= {"tail": host.told["tail"]} if "tail" in host.told else {}
        parts = [fingerprint(part, self.normalize) for part in (host.encoder, host.bridge, host.rest)]
        return hashlib.sha256(json.dumps([*parts, settings], sort_keys=True, default=str).encode()).hexdigest()[:32]

    @cached_property
    def rater(self) -> Rater:
        """What scores recordings. ValueError for a model without a score head."""
        if self.judge is not None:
            return JudgeRater(self.judge)
        if self.file is not None:
            return self.file
        if self.scores is None:
            raise ValueError(
                f"{self.name} has no head that scores recordings; name a student of the recipe 'quality', or a quality model such as "
                "distillmos"
            )
        return HeadRater(self.encoder, self.frozen.encoder, self.scores.to(self.device), self.normalize, self.device)

    def check(self, ability: Ability) -> None:
        """ValueError for a model that cannot do what a task needs: give features, speak as a whole, or score recordings."""
        if ability == "scores":
            _ = self.rater
        elif self.judge is not None:
            raise ValueError(f"{self.name} scores recordings and has no features; measure it by the task quality-score")
        elif ability == "host":
            _ = self.host

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
