"""Recognition of token sequences with connectionist temporal classification (Graves et al. 2006), for PR, ASR and SF."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder import product
from sottovoce.evaluation.heads.linear import inside
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.probing import Fold, Item, ProbeTask, Rows
from sottovoce.evaluation.statistics.metrics import library

BLANK = 0
SPACE = "|"
Outputs = tuple[Tensor, Tensor]  # (B, T, classes) log-probabilities and (B,) frames


@dataclass
class Label:
    """The reference of one item. ids: its token numbers, from 1. answer: what `target` returned."""

    ids: list[int]
    answer: Any


class CTC(ProbeTask):
    """A head that gives token probabilities for every frame, trained with CTC and decoded greedily, without a language model.

    A subclass defines `target`, `tokens`, `errors`, `scores` and `head`. The alphabet is the tokens of the train split; a token that only
    dev or test have counts as an error. Training utterances with more tokens than frames are counted, listed and not used; when no
    others are left, there is no score.
    """

    version = 2  # 1: the default schedule was the benchmark's
    superb = Training(lrs=(1e-4,), steps=200_000, batch=32, evaluate_every=2_000)
    alphabet: list[str]

    def too_long(self, targets: Sequence[Label], frames: Sequence[int]) -> list[int]:
        """Each token needs a frame, and two equal tokens in a row need a blank frame between them."""
        size = getattr(self.config, "subsample", 1)
        needed = [len(target.ids) + sum(a == b for a, b in itertools.pairwise(target.ids)) for target in targets]
        return [i for i, (count, available) in enumerate(zip(needed, frames, strict=True)) if count > -(-available // size)]

    def tokens(self, answer: Any) -> Sequence[str]:
        """The tokens of a reference from `target`."""
        raise TypeError(f"{type(self).__name__} must define tokens")

    def errors(self, answer: Any, tokens: list[str]) -> tuple[float, ...]:
        """The numbers of one utterance, which `scores` sums. tokens: the recognised ones."""
        raise TypeError(f"{type(self).__name__} must define errors")

    def prepare(self, fold: Fold) -> Fold:
        library("jiwer")  # fails now if it is missing, not after the training
        self.alphabet = sorted({token for item in fold.train for token in self.tokens(item.target)})
        number = {token: i for i, token in enumerate(self.alphabet, BLANK + 1)}

        def labelled(items: list[Item]) -> list[Item]:
            return [
                replace(item, target=Label([number[t] for t in self.tokens(item.target) if t in number], item.target))
                for item in items
            ]

        return Fold(labelled(fold.train), labelled(fold.dev), labelled(fold.test))

    def loss(self, outputs: Outputs, lengths: Tensor, targets: list[Label]) -> Tensor:
        """Loss per token, mean over utterances: the default of ``nn.CTCLoss``, which SUPERB uses."""
        return ctc_loss(*outputs, [target.ids for target in targets], "mean")

    def count(self, outputs: Outputs, lengths: Tensor, targets: list[Label]) -> Rows:
        predicted = [[self.alphabet[i - 1] for i in ids] for ids in greedy(*outputs)]
        rows = [self.errors(target.answer, tokens) for target, tokens in zip(targets, predicted, strict=True)]
        return np.array(rows, dtype=np.float64)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        return {"alphabet": len(self.alphabet)}


def ctc_loss(log_probs: Tensor, frames: Tensor, ids: Sequence[Sequence[int]], reduction: str) -> Tensor:
    """CTC loss of (B, T, classes) log-probabilities; 0 where there are more tokens than frames."""
    flat = torch.tensor([i for each in ids for i in each], dtype=torch.long, device=log_probs.device)
    counts = torch.tensor([len(each) for each in ids], device=log_probs.device)
    return F.ctc_loss(log_probs.transpose(0, 1), flat, frames, counts, BLANK, reduction, zero_infinity=True)


def greedy(log_probs: Tensor, frames: Tensor) -> list[list[int]]:
    """Greedy decoding: the likeliest class of each frame, without repetitions and blanks."""
    best = log_probs.argmax(-1)
    new = torch.ones_like(best, dtype=torch.bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = new & (best != BLANK) & inside(best.shape[1], frames)
    return [row[mask].tolist() for row, mask in zip(best.cpu(), kept.cpu(), strict=True)]


class FrameClassifier(nn.Module):
    """A projection and a linear layer, frame by frame (SUPERB's head for PR)."""

    def __init__(self, dim: int, classes: int, projector: int = 256) -> None:
        super().__init__()
        self.projector = product.Linear(dim, projector)
        self.output = product.Linear(projector, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Outputs:
        return self.output(self.projector(x)).log_softmax(-1), lengths


@dataclass(frozen=True)
class Masks:
    """Masks that set parts of the features to 0 in training (SpecAugment, Park et al. 2019; no time warping).

    time, features: masks per recording; time_width, feature_width: the most frames and features that one mask covers.
    Defaults: SUPERB's for ASR.
    """

    time: int = 2
    time_width: int = 40
    features: int = 4
    feature_width: int = 50

    def apply(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) features, masked."""
        rows, frames, dim = x.shape
        hidden = stretches(rows, frames, lengths, self.time, self.time_width)[:, :, None]
        hidden = hidden | stretches(rows, dim, torch.full_like(lengths, dim), self.features, self.feature_width)[:, None]
        return x.masked_fill(hidden, 0)


def stretches(rows: int, size: int, ends: Tensor, count: int, width: int) -> Tensor:
    """(rows, size) bool: true in `count` random stretches of 0 to `width` places, all before `ends`, (rows,)."""
    widths = torch.randint(0, width + 1, (rows, count, 1), device=ends.device).minimum(ends[:, None, None])
    starts = (torch.rand(rows, count, 1, device=ends.device) * (ends[:, None, None] - widths + 1)).long()
    place = torch.arange(size, device=ends.device)
    return ((place >= starts) & (place < starts + widths)).any(1)


@dataclass(frozen=True)
class Recurrent:
    """Settings of tasks with a `BLSTM` head, which explains them. Defaults: SUPERB's (s3prl: asr, ctc/snips)."""

    training: Training = Training()
    projector: int = 1024
    layers: int = 2
    units: int = 1024
    dropout: float = 0.2
    subsample: int = 1
    masks: Masks = Masks()
    max_seconds: float | None = None

    def head(self, dim: int, classes: int) -> BLSTM:
        return BLSTM(dim, classes, self.projector, self.layers, self.units, self.dropout, self.subsample, self.masks)


class BLSTM(nn.Module):
    """A projection, layers of bidirectional LSTM, each followed by dropout, and a linear layer (SUPERB's head for ASR and SF).

    subsample: how many neighbouring frames are concatenated before the first layer; 1 in SUPERB. Padding does not change the outputs.
    """

    def __init__(
        self, dim: int, classes: int, projector: int, layers: int, units: int, dropout: float, subsample: int, masks: Masks
    ) -> None:
        super().__init__()
        self.subsample, self.masks = subsample, masks
        self.projector = product.Linear(dim, projector)
        sizes = [subsample * projector, *[2 * units] * (layers - 1)]
        self.ahead = nn.ModuleList(nn.LSTM(size, units, batch_first=True) for size in sizes)
        self.back = nn.ModuleList(nn.LSTM(size, units, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        self.output = product.Linear(2 * units, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Outputs:
        if self.training:
            x = self.masks.apply(x, lengths)
        x, frames = stack(self.projector(x), lengths, self.subsample)
        # Two LSTMs; the second reads each row backwards from its end. Equal to packed sequences, and three times as fast on a CPU.
        place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        turned = torch.where(place < frames[:, None], frames[:, None] - 1 - place, place)[..., None]
        for ahead, back in zip(self.ahead, self.back, strict=True):
            later = back(x.gather(1, turned.expand_as(x)))[0]
            x = self.dropout(torch.cat([ahead(x)[0], later.gather(1, turned.expand_as(later))], dim=-1))
        return self.output(x).log_softmax(-1), frames


def stack(x: Tensor, lengths: Tensor, size: int) -> Outputs:
    """(B, T, D), (B,) lengths -> (B, ceil(T / size), size D), (B,) lengths: `size` frames concatenated; padding is 0."""
    if size == 1:
        return x, lengths
    x = x * inside(x.shape[1], lengths)[..., None]
    x = F.pad(x, (0, 0, 0, -x.shape[1] % size))
    return x.reshape(len(x), -1, size * x.shape[2]), (lengths + size - 1) // size


def spelled(text: str) -> list[str]:
    """A token for each character, `SPACE` for the space."""
    return list(text.replace(" ", SPACE))
