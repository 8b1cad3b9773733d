"""Heads that score whole recordings, such as their quality. They are trained with a student and kept in its folder.

B batch, S samples, T frames, D width of the student, N scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder.config import Shape

BATCH = 16  # windows that are heard together
# (B, S) waves, (B,) valid samples, and the labels of heads that are asked -> by label, (B, N)
Say = Callable[[Tensor, Tensor | None, Sequence[str]], Mapping[str, Tensor]]


@dataclass(frozen=True, repr=False)
class ScoreShape(Shape):
    """names: of the scores. layer: whose frames are read; 0 is the front end, the last one is read after the final norm if there is one.
    attention: width of the layer that weighs frames; 0: frames count alike. bounds: lowest and highest score; empty: no limits.
    window: seconds that are heard at a time; the score of a longer recording is the mean over windows; 0: no limit."""

    names: tuple[str, ...]
    layer: int
    attention: int = 0
    bounds: tuple[float, ...] = ()
    window: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScoreShape:
        """From config.json. ValueError for anything that this version does not write."""
        try:
            shape = cls(
                tuple(str(name) for name in values["names"]),
                int(values["layer"]),
                int(values.get("attention", 0)),
                tuple(float(bound) for bound in values.get("bounds", ())),
                float(values.get("window", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"config.json does not describe a score head of this version of sottovoce ({problem})") from None
        if not shape.names or shape.layer < 0 or not 0 <= shape.attention <= 2**20 or len(shape.bounds) not in (0, 2):
            raise ValueError(f"config.json describes a score head that cannot be built: {shape}")
        return shape


class ScoreHead(nn.Module):
    """`Features` -> (B, N): the mean over the valid frames of a layer, or a mean that is weighed by attention, and a linear map.

    With attention, frame t has the weight softmax over t of ``w2 relu(W1 x_t)`` (the pooling of XLS-R-SQA and Distill-MOS, arXiv
    2502.05356). With bounds, a score is ``lowest + (highest - lowest) sigmoid(y)`` (Distill-MOS: 1 + 4 sigmoid).
    """

    def __init__(self, dim: int, shape: ScoreShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.attention
        self.attention = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, 1)) if width else None
        self.project = nn.Linear(dim, len(shape.names))

    def forward(self, features: Features) -> Tensor:
        last = self.shape.layer == len(features.hidden) - 1
        x, valid = features.last if last else features.hidden[self.shape.layer], features.valid()
        logits = x.new_zeros(x.shape[:2]) if self.attention is None else self.attention(x)[..., 0]
        weights = logits.float().masked_fill(~valid, -torch.inf).softmax(1).nan_to_num()  # 0 for a row without frames
        y: Tensor = self.project((weights.to(x.dtype)[..., None] * x).sum(1)).float()
        if not self.shape.bounds:
            return y
        lowest, highest = self.shape.bounds
        return lowest + (highest - lowest) * y.sigmoid()


class ScoreHeads(nn.ModuleDict):
    """The score heads of a student, by label."""

    def __init__(self, dim: int, shapes: Mapping[str, ScoreShape]) -> None:
        super().__init__({label: ScoreHead(dim, shape) for label, shape in shapes.items()})

    @property
    def shapes(self) -> dict[str, ScoreShape]:
        """The shape of each head."""
        return {label: head.shape for label, head in self.heads()}

    def heads(self) -> list[tuple[str, ScoreHead]]:
        return [(label, head) for label, head in self.items() if isinstance(head, ScoreHead)]

    def rate(self, encoder: nn.Module, wave: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """(B, S) 16 kHz as the encoder reads it, (B,) valid samples -> by label, (B, N); see `in_windows`."""

        def say(wave: Tensor, lengths: Tensor | None, labels: Sequence[str]) -> dict[str, Tensor]:
            features = encoder(wave, lengths)
            return {label: self[label](features) for label in labels}

        return in_windows(say, self.shapes, wave, lengths)


def in_windows(say: Say, shapes: Mapping[str, ScoreShape], wave: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """The scores of recordings, by label (B, N). Those longer than a head's window are heard in windows that overlap by half or more.

    say: what the heads say of recordings that fit into their window.
    """
    found: dict[str, Tensor] = {}
    for window in {shape.window for shape in shapes.values()}:
        labels = [label for label, shape in shapes.items() if shape.window == window]
        size = round(window * SAMPLE_RATE)
        if not size or wave.shape[1] <= size:
            found |= say(wave, lengths, labels)
            continue
        ends = [wave.shape[1]] * len(wave) if lengths is None else lengths.tolist()
        pieces, owners = windows(wave, ends, size)
        parts: dict[str, list[Tensor]] = {label: [] for label in labels}
        for start in range(0, len(pieces), BATCH):
            some = pieces[start : start + BATCH]
            counts = torch.tensor([len(piece) for piece in some], device=wave.device)
            for label, scores in say(nn.utils.rnn.pad_sequence(some, batch_first=True), counts, labels).items():
                parts[label].append(scores)
        rows = torch.tensor(owners, device=wave.device)
        for label, each in parts.items():
            every = torch.cat(each)
            found[label] = torch.stack([every[rows == row].mean(0) for row in range(len(wave))])
    return {label: found[label] for label in shapes}


def windows(wave: Tensor, ends: list[int], size: int) -> tuple[list[Tensor], list[int]]:
    """The windows of `size` samples of each row, evenly spread so that neighbours overlap by half or more, and the row of each."""
    pieces: list[Tensor] = []
    owners: list[int] = []
    for row, end in enumerate(ends):
        over = max(0, end - size)
        for start in torch.linspace(0, over, math.ceil(over / (size // 2)) + 1).long().tolist():
            pieces.append(wave[row, start : min(end, start + size)])
            owners.append(row)
    return pieces, owners
