"""k-means clusters of frames, for objectives whose targets they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sottovoce.core.types import Answer, Batch, Features
from sottovoce.encoder.log_mel import LogMel, mfcc
from sottovoce.objectives.base import EncoderShape, Objective


@dataclass(frozen=True)
class ClusterConfig:
    """clusters: their number. fit_frames: frames of the data that they are found in. fit_rounds: of Lloyd's algorithm."""

    clusters: int = 100
    fit_frames: int = 200_000
    fit_rounds: int = 30


class Clusters(Objective):
    """An objective whose targets are clusters of MFCC frames, or of the frames of a teacher layer.

    `fit` finds the clusters before training; they are kept as buffers. Targets are computed batch by batch, so the corpus needs no
    labelling pass. A subclass calls `make_clusters`.
    """

    config: ClusterConfig
    centroids: Tensor
    mean: Tensor
    deviation: Tensor

    def make_clusters(self, layer: int, teacher: EncoderShape) -> None:
        """Adds the buffers. layer: the teacher's whose outputs are clustered; 0: MFCC of the audio."""
        self.layer, size = layer, teacher.dim if layer else 39
        self.logmel = LogMel(40)
        self.register_buffer("centroids", torch.zeros(self.config.clusters, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def sources(self, teacher: Answer | None, batch: Batch) -> Tensor:
        """(B, T, size) float32: the vectors that are clustered."""
        if self.layer:
            assert isinstance(teacher, Features)
            return teacher.hidden[self.layer].float()
        with torch.autocast(batch.wave.device.type, enabled=False):
            return mfcc(self.logmel(batch.wave))

    def distances(self, sources: Tensor) -> Tensor:
        """(..., size) -> (..., clusters): squared distances to the centroids, of standardised vectors, minus the vector's own square."""
        with torch.autocast(sources.device.type, enabled=False):
            x = (sources - self.mean) / self.deviation
            return self.centroids.square().sum(-1) - 2 * x @ self.centroids.T

    def labels(self, sources: Tensor) -> Tensor:
        """Nearest centroid of each frame, (B, T)."""
        return self.distances(sources).argmin(-1)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Batch, Answer | None]]) -> None:
        """k-means over the first `fit_frames` frames: Lloyd's algorithm from random frames; empty clusters are restarted."""
        vectors: list[Tensor] = []
        for batch, teacher in batches:
            x = self.sources(teacher, batch)
            ends = [x.shape[1]] * len(x) if batch.lengths is None else self.logmel.frames(batch.lengths).tolist()
            if isinstance(teacher, Features) and teacher.lengths is not None:
                ends = teacher.lengths.tolist()
            vectors += [row[:end] for row, end in zip(x, ends, strict=True)]  # without padding
            if sum(map(len, vectors)) >= self.config.fit_frames:
                break
        x = torch.cat(vectors)[: self.config.fit_frames]
        if len(x) < self.config.clusters:
            raise ValueError(f"{len(x)} frames of audio are too few for {self.config.clusters} clusters")
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0) + 1e-5)
        scaled = (x - self.mean) / self.deviation
        centroids = scaled[torch.randperm(len(x), device=x.device)[: self.config.clusters]]
        for _ in range(self.config.fit_rounds):
            nearest = (centroids.square().sum(-1) - 2 * scaled @ centroids.T).argmin(-1)
            sums = torch.zeros_like(centroids).index_add_(0, nearest, scaled)
            counts = torch.bincount(nearest, minlength=len(centroids))
            restart = scaled[torch.randint(len(x), (len(centroids),), device=x.device)]
            centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], restart)
        self.centroids.copy_(centroids)
