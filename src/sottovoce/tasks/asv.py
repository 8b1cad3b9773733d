"""Automatic speaker verification (SUPERB ASV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.encoder import product
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.probing import Fold, ProbeTask, Rows
from sottovoce.evaluation.kinds.verification import VerificationTask

LAYERS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # (kernel, dilation) of the x-vector's time-delay layers
CONTEXT = sum((kernel - 1) * dilation for kernel, dilation in LAYERS)  # frames lost at the ends


@TASKS.register("asv")
class SpeakerVerification(VerificationTask, ProbeTask):
    """Automatic speaker verification of speakers who are not in the training data; EER.

    SUPERB (Yang et al. 2021): an x-vector network (Snyder et al. 2018) on the weighted sum learns to classify the training speakers with
    the additive-margin softmax loss (Wang et al. 2018). A trial's score is the cosine between the embeddings after the first layer behind
    the pooling. Deviations: silence is not removed, and training crops are consecutive parts of an utterance, not random ones, so that
    their features can be kept. Trials, minDCF and interval: see `VerificationTask`.
    """

    title = "Speaker verification"
    version = 3  # 1: the interval drew the speakers of first recordings only; 2: the default schedule was the benchmark's
    by_steps_since = 2
    superb = Training(lrs=(1e-4,), steps=200_000, batch=50, evaluate_every=10_000)
    short = Training(lrs=(3e-4, 1e-3), passes=20, batch=32, patience=6, layers_lr=0.03, standardize=True)

    @dataclass(frozen=True)
    class Config(VerificationTask.Config):
        """SUPERB's values (s3prl, sv_voxceleb1): batches of 10 with 5 accumulated; its optimizer is AdamW, ours Adam.

        width: channels of the network and of the embedding; pooled: channels before the pooling. scale, margin: of the loss.
        """

        training: Training = Training()
        width: int = 512
        pooled: int = 1500
        scale: float = 30.0
        margin: float = 0.4

    def head(self, dim: int) -> nn.Module:
        return XVector(dim, self.config.width, self.config.pooled, self.speakers)

    def loss(self, outputs: tuple[Tensor, Tensor], lengths: Tensor, targets: list[int]) -> Tensor:
        speakers = torch.tensor(targets, device=lengths.device)
        return additive_margin_loss(outputs[1], speakers, self.config.scale, self.config.margin)

    def count(self, outputs: tuple[Tensor, Tensor], lengths: Tensor, targets: list[int]) -> Rows:
        """(B, 1 + width): an item's number and its embedding, of length 1."""
        embedding = F.normalize(outputs[0], dim=1).cpu().numpy()
        return np.column_stack([targets, embedding]).astype(np.float64)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        return {"train_speakers": self.speakers, **super().details(fold, rows)}


class XVector(nn.Module):
    """(B, T, dim), (B,) lengths -> embedding (B, width), and the cosine to every training speaker (B, speakers).

    Snyder et al. 2018, as in s3prl: a linear map to `width`, five time-delay layers without padding, mean and standard deviation over
    time, two layers; ReLU after each. The embedding comes after the first of the two, the speakers after the second.
    """

    def __init__(self, dim: int, width: int, pooled: int, speakers: int) -> None:
        super().__init__()
        self.project = product.Linear(dim, width)
        sizes = (*(width for _ in LAYERS[1:]), pooled)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, size, kernel, dilation=dilation) for size, (kernel, dilation) in zip(sizes, LAYERS, strict=True)
        )
        self.first, self.second = nn.Linear(2 * pooled, width), nn.Linear(width, width)
        self.speakers = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, speakers)))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(x).transpose(1, 2)
        x = F.pad(x, (0, max(0, CONTEXT + 1 - x.shape[2])))
        for layer in self.layers:
            x = F.relu(layer(x))
        count = (lengths - CONTEXT).clamp(min=1)[:, None]
        inside = (torch.arange(x.shape[2], device=x.device) < count)[:, None].to(x.dtype)
        mean = (x * inside).sum(2) / count
        variance = ((x - mean[..., None]).square() * inside).sum(2) / count
        embedding = F.relu(self.first(torch.cat([mean, (variance + 1e-8).sqrt()], dim=1)))
        cosines = F.normalize(F.relu(self.second(embedding)), dim=1) @ F.normalize(self.speakers, dim=0)
        return embedding, cosines


def additive_margin_loss(cosines: Tensor, speakers: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scale x (cosine - margin for the correct class) (Wang et al. 2018, eq. 6). cosines: (B, C); speakers: (B,)."""
    return F.cross_entropy(scale * (cosines - margin * F.one_hot(speakers, cosines.shape[1])), speakers)
