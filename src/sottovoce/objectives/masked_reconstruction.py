"""Masked reconstruction of log-mel frames (Mockingjay, Liu et al. 2020, arXiv 1910.12638; TERA, Liu et al. 2021, arXiv 2007.06028)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.encoder.log_mel import LogMel
from sottovoce.objectives.base import EncoderShape, Needs, Objective, by_mask, layer_index


@OBJECTIVES.register("masked_reconstruction")
class MaskedReconstruction(Objective):
    """L1 distance to the log-mel spectrum of masked frames, predicted from one student layer by two linear maps with a GELU between.

    A spectrum, unlike a cluster, depends on speaker and microphone, so the layers up to the chosen one must keep them. Each recording's
    level (its mean over frames and bands) is subtracted first, because a front end with group norm cannot know it. Bands are scaled to
    zero mean and unit variance over the first `fit_frames` frames of the data.
    """

    mean: Tensor
    deviation: Tensor

    @dataclass(frozen=True)
    class Config:
        """layer: the student's, a number or a share of the depth (the last layer in the papers).

        alpha: weight of masked frames; the others get 1 - alpha.
        """

        layer: str = "1/1"
        mels: int = 80
        alpha: float = 1.0
        fit_frames: int = 50_000

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: MaskedReconstruction.Config = config
        self.layer = layer_index(config.layer, student.depth)
        self.logmel = LogMel(config.mels)
        self.predict = nn.Sequential(nn.Linear(student.dim, student.dim), nn.GELU(), nn.Linear(student.dim, config.mels))
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("deviation", torch.ones(config.mels))

    def needs(self) -> Needs:
        return Needs(masked_input=True, targets="none")

    def frames(self, valid: Tensor, mask: Tensor | None) -> Tensor:
        return super().frames(valid, mask) if self.config.alpha == 1 else valid

    @torch.no_grad()
    def spectra(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, mels) float32 log-mel frames minus the recording's level, and (B, T) bool, false on padding."""
        with torch.autocast(batch.wave.device.type, enabled=False):
            x = self.logmel(batch.wave)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if batch.lengths is not None:
            ends = self.logmel.frames(batch.lengths)
            valid = torch.arange(x.shape[1], device=x.device) < ends[:, None]
        share = valid / valid.sum(1, keepdim=True).clamp(min=1)
        return x - (x.mean(-1) * share).sum(1)[:, None, None], valid

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """Sets mean and deviation of every band. ValueError if there are fewer than two frames."""
        spectra: list[Tensor] = []
        for batch, _ in batches:
            x, valid = self.spectra(batch)
            spectra.append(x[valid])
            if sum(map(len, spectra)) >= self.config.fit_frames:
                break
        x = torch.cat(spectra)[: self.config.fit_frames]
        if len(x) < 2:
            raise ValueError("the data has too little audio for the statistics of masked_reconstruction; add recordings")
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0) + 1e-5)

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        target = (self.spectra(batch)[0] - self.mean) / self.deviation
        output = self.predict(student.hidden[self.layer][:, : target.shape[1]]).float()
        target, frames = target[:, : output.shape[1]], frames[:, : output.shape[1]]
        l1 = (output - target).abs().mean(-1)
        weight = frames.float()
        if self.config.alpha != 1 and student.mask is not None:
            weight = weight * by_mask(student.mask[:, : output.shape[1]], self.config.alpha)
        return Loss((l1 * weight).sum(), {"l1": (l1 * frames).sum().detach()})
