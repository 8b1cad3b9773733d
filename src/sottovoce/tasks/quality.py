"""Speech quality: regression of human ratings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.features.store import Kind
from sottovoce.evaluation.heads.linear import MeanPool
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.classification import UtteranceHead, field
from sottovoce.evaluation.kinds.probing import Fold, Item, ProbeTask, Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.metrics import pearson, spearman


@TASKS.register("quality")
class SpeechQuality(ProbeTask):
    """Speech quality: human ratings of an utterance (as in XLS-R-SQA); correlation with the raters' mean."""

    title = "Speech quality"
    reads = "the rating, a number, in a column 'score'"
    version = 2  # 1: 200,000 updates were the default schedule
    superb = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=5_000)
    kind: Kind = "pooled"  # type: ignore[misc]
    metrics = (Metric("pearson", ""), Metric("spearman", ""), Metric("rmse", "", "lower"))

    @dataclass(frozen=True)
    class Config(UtteranceHead):
        """Values of SUPERB's utterance tasks, since none are published for this one. field: the column with the rating."""

        field: str = "score"

    def target(self, recording: Recording) -> float:
        try:
            value = float(field(recording, self.config.field))
        except ValueError:
            raise Unusable(f"{self.config.field} is not a number") from None
        if not np.isfinite(value):
            raise Unusable(f"{self.config.field} is not a number")
        return value

    def prepare(self, fold: Fold) -> Fold:
        """Standardises the ratings by mean and deviation of the train split."""
        values = [item.target for item in fold.train]
        self.mean, self.std = float(np.mean(values)), float(np.std(values))
        if not self.std:
            raise ValueError(
                f"all ratings in column '{self.config.field}' of the train split are equal; there is nothing to learn"
            )

        def scaled(items: list[Item]) -> list[Item]:
            return [replace(item, target=(item.target - self.mean) / self.std) for item in items]

        return Fold(scaled(fold.train), scaled(fold.dev), scaled(fold.test))

    def head(self, dim: int) -> nn.Module:
        return MeanPool(dim, self.config.projector, [1])

    def loss(self, outputs: list[Tensor], lengths: Tensor, targets: list[float]) -> Tensor:
        return F.mse_loss(outputs[0][:, 0], torch.tensor(targets, device=lengths.device))

    def count(self, outputs: list[Tensor], lengths: Tensor, targets: list[float]) -> Rows:
        """(B, 2): predicted and human rating, on the raters' scale."""
        predicted = outputs[0][:, 0].double().cpu().numpy()
        rows: Rows = np.column_stack([predicted, np.array(targets, dtype=np.float64)]) * self.std + self.mean
        return rows

    def dev_score(self, rows: Rows) -> float:
        """The correlation; minus the RMSE if all dev ratings are equal, which leaves no correlation."""
        predicted, rated = rows.T
        if np.ptp(rated) == 0:
            return -float(np.sqrt(np.mean((predicted - rated) ** 2)))
        return pearson(predicted, rated)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        predicted, rated = rows.T
        return pearson(predicted, rated), spearman(predicted, rated), float(np.sqrt(np.mean((predicted - rated) ** 2)))
