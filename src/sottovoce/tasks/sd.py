"""Speaker diarization (SUPERB SD): who speaks when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings, turns_of
from sottovoce.data.mixtures import MixtureConfig, check_voices, mixtures
from sottovoce.data.turns import Turn
from sottovoce.evaluation.features.store import Piece
from sottovoce.evaluation.heads.linear import inside
from sottovoce.evaluation.heads.probe import Examples, Probe
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.probing import Fold, Item, ProbeTask, Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric, Outcome, Workbench
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import diarization_errors
from sottovoce.evaluation.subjects.subject import Subject

Labels = NDArray[np.float32]
TURN = '[[0, 1, "a"]]'


@TASKS.register("sd")
class SpeakerDiarization(ProbeTask):
    """Speaker diarization: who speaks when, overlaps included; DER.

    SUPERB (Yang et al. 2021): one LSTM layer predicts for each frame which speakers are active, trained with the permutation-invariant loss
    of Fujita et al. 2019 (EEND); then a threshold and a median filter. DER counts frames of the model's rate, without a collar. Two
    deviations: SUPERB reports the best threshold and filter on the test set, here they are chosen on dev; and the dev score is DER, not
    frame accuracy. Pieces of a recording (`max_seconds`) are scored with the best permutation of each.

    The bootstrap draws speakers: a conversation counts as often as the product of the counts of its speakers.
    """

    title = "Speaker diarization"
    reads = "who speaks when from a column 'turns' or 'rttm', or makes conversations of recordings with a 'speaker' (setting 'mixtures')"
    metrics = (Metric("der", better="lower"),)
    version = 2  # 1: the default schedule was the benchmark's
    superb = Training(lrs=(1e-4,), steps=30_000, batch=32, evaluate_every=500)
    short = Training(lrs=(3e-3,), passes=20, batch=16, patience=6, layers_lr=0.03, standardize=True)

    @dataclass(frozen=True)
    class Config:
        """SUPERB's values (s3prl, diarization): batches of 8 with 4 accumulated, chunks of 2000 frames of 10 ms.

        hidden: units of the LSTM. speakers: the most in a recording, and outputs of the head; recordings with more are left out
        (`mixtures.speakers` may be a range, e.g. [2, 4]). chunk_seconds: length of the pieces of train and dev recordings; max_seconds: of
        test recordings (``None``: no pieces). medians (frames) and thresholds: to try on dev. mixtures: conversations to make from
        recordings of single speakers.
        """

        training: Training = Training()
        hidden: int = 512
        speakers: int = 2
        chunk_seconds: float = 20.0
        max_seconds: float | None = None
        medians: tuple[int, ...] = (1, 11)
        thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)
        mixtures: MixtureConfig | None = None

        def __post_init__(self) -> None:
            if not 1 <= self.speakers <= 5:
                raise ValueError("speakers must be 1 to 5: every order of them is tried")
            if not self.medians or any(size < 1 or size % 2 == 0 for size in self.medians):
                raise ValueError("medians must be odd numbers of frames, 1 for no filter")
            if not self.thresholds or any(not 0 < value < 1 for value in self.thresholds):
                raise ValueError("thresholds must be between 0 and 1")
            if self.mixtures is not None and self.mixtures.most > self.speakers:
                raise ValueError(
                    f"mixtures.speakers is above speakers, which is {self.speakers}: raise that to {self.mixtures.most}"
                )

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        self.rate = subject.frame_rate
        return super().measure(subject, recordings, bench)

    def check(self, recordings: Recordings) -> None:
        """Does not make the conversations, which reads audio; assumes the frame rate of most encoders."""
        self.rate = 50.0
        plan: MixtureConfig | None = self.config.mixtures
        if plan is None:
            return super().check(recordings)
        labelled, voices = _by_turns(recordings)
        check_voices(voices, plan)
        counts = {"train": plan.train, "dev": plan.dev, "test": plan.test}
        placeholders = [
            Recording(split, "", duration=1.0, fields={"split": split, "turns": TURN}) for split in counts if counts[split]
        ]
        SpeakerDiarization(replace(self.config, mixtures=None)).check(Recordings([*labelled, *placeholders], recordings.skipped))

    def arrange(self, recordings: Recordings) -> Recordings:
        plan: MixtureConfig | None = self.config.mixtures
        if plan is None:
            return recordings
        labelled, voices = _by_turns(recordings)
        return Recordings([*labelled, *mixtures(voices, plan)], recordings.skipped)

    def target(self, recording: Recording) -> list[Turn]:
        if not _has_turns(recording):
            raise Unusable("no turns")
        turns = turns_of(recording)
        speakers = len({who for _, _, who in turns})
        if not speakers:
            raise Unusable("nobody speaks")
        if speakers > self.config.speakers:
            raise Unusable(f"{speakers} speakers")
        return turns

    def pieces(self, recording: Recording, split: str) -> list[Piece]:
        size = self.config.max_seconds if split == "test" else self.config.chunk_seconds
        if size is None or recording.duration is None or recording.duration <= size:
            return [Piece(recording, 0.0, size)]
        # Drops a rest shorter than half a piece: it is too short to separate speakers.
        count = max(1, round(recording.duration / size))
        return [Piece(recording, i * size, size) for i in range(count)]

    def prepare(self, fold: Fold) -> Fold:
        def labelled(items: list[Item], choose: bool) -> list[Item]:
            return [
                replace(item, target=(frame_labels(_turns_in_piece(item), self.rate, self.config.speakers), choose))
                for item in items
            ]

        # Each target says whether it is of dev, where the threshold is chosen.
        return Fold(labelled(fold.train, False), labelled(fold.dev, True), labelled(fold.test, False))

    def head(self, dim: int) -> nn.Module:
        return Diarizer(dim, self.config.hidden, self.config.speakers)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: list[Any]) -> Tensor:
        wanted = torch.stack([torch.from_numpy(fitted(labels, outputs.shape[1])) for labels, _ in targets])
        return permutation_free_loss(outputs, wanted.to(outputs.device), lengths)

    def count(self, outputs: Tensor, lengths: Tensor, targets: list[Any]) -> Rows:
        """(B, 1 + choices): speech frames, and the errors with each threshold and median."""
        probabilities = outputs.sigmoid().cpu().numpy()
        rows = []
        for i, (labels, _) in enumerate(targets):
            frames = int(lengths[i])
            wanted = fitted(labels, frames)
            results = [diarization_errors(wanted, decide(probabilities[i, :frames], *choice)) for choice in self.choices]
            rows.append([results[0][1], *(errors for errors, _ in results)])
        return np.array(rows, dtype=np.float64)

    @property
    def choices(self) -> list[tuple[float, int]]:
        """All pairs (threshold, median)."""
        return list(itertools.product(self.config.thresholds, self.config.medians))

    def rows(self, probe: Probe, examples: Examples[Any], device: torch.device) -> Rows:
        """(N, 2): errors and speech frames. On dev, stores the best threshold and median in the probe."""
        counts = super().rows(probe, examples, device)
        assert isinstance(probe.head, Diarizer)
        if any(choose for _, choose in examples.targets):
            probe.head.choice.fill_(int(counts[:, 1:].sum(0).argmin()))
        return counts[:, [1 + int(probe.head.choice), 0]]

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return (ratio(rows),)

    def drawn(self, groups: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(group.split()) for group in groups]

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        labels = np.concatenate([item.target[0] for item in fold.test])
        active = labels.sum(1)
        return {"test_overlap": round(100 * float((active > 1).sum() / max(1, (active > 0).sum())), 2)}


class Diarizer(nn.Module):
    """(B, T, dim) -> (B, T, speakers) logits by one LSTM layer (s3prl's diarization model).

    choice: index into `SpeakerDiarization.choices`; a buffer, so that it is stored with the weights that it was chosen for.
    """

    choice: Tensor

    def __init__(self, dim: int, hidden: int, speakers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, speakers)
        self.register_buffer("choice", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.output(self.lstm(x)[0])
        return logits


def permutation_free_loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Binary cross-entropy per frame and speaker, for the best order of speakers of each item (Fujita et al. 2019, eq. 2).

    logits, labels: (B, T, speakers). lengths: (B,) valid frames. The mean over items.
    """
    speakers = logits.shape[2]
    valid = inside(logits.shape[1], lengths)[..., None].to(logits.dtype)
    pairs = torch.stack(  # (B, speakers, speakers): loss of each output for each speaker
        [
            (F.binary_cross_entropy_with_logits(logits, labels[..., j : j + 1].expand_as(logits), reduction="none") * valid).sum(
                1
            )
            for j in range(speakers)
        ],
        dim=2,
    )
    orders = list(itertools.permutations(range(speakers)))
    total = torch.stack([sum((pairs[:, i, j] for i, j in enumerate(order)), pairs.new_zeros(())) for order in orders], dim=1)
    return (total.amin(1) / (lengths.to(logits.dtype) * speakers)).mean()


def frame_labels(turns: Sequence[Turn], rate: float, speakers: int) -> Labels:
    """(T, speakers) of 0 and 1 at `rate` frames a second, until the last turn ends; speakers in order of their names.

    A turn covers the frames from its rounded start to its rounded end, as in EEND. Unused columns are 0.
    """
    names = sorted({who for _, _, who in turns})
    labels = np.zeros((max((round(end * rate) for _, end, _ in turns), default=0), speakers), np.float32)
    for start, end, who in turns:
        labels[round(start * rate) : round(end * rate), names.index(who)] = 1
    return labels


def fitted(labels: Labels, frames: int) -> Labels:
    """labels (T, speakers), cut or padded with silence to `frames`."""
    return np.pad(labels[:frames], ((0, max(0, frames - len(labels))), (0, 0)))


def decide(probabilities: NDArray[np.float32], threshold: float, median: int) -> NDArray[np.bool_]:
    """(T, speakers): probabilities above the threshold, after a median filter of `median` frames, padded with silence."""
    active = probabilities > threshold
    if median == 1:
        return active
    half = median // 2
    counts = np.cumsum(np.pad(active, ((half + 1, half), (0, 0))), axis=0)
    return np.asarray(counts[median:] - counts[:-median] > half)


def _has_turns(recording: Recording) -> bool:
    return bool(recording.fields.get("turns") or recording.fields.get("rttm"))


def _by_turns(recordings: Recordings) -> tuple[list[Recording], Recordings]:
    """The recordings with turns, and the others, from which conversations are made."""
    return [item for item in recordings if _has_turns(item)], Recordings(item for item in recordings if not _has_turns(item))


def _turns_in_piece(item: Item) -> list[Turn]:
    """The turns of an item's piece, in seconds from its start."""
    begin = item.piece.start
    end = float("inf") if item.piece.seconds is None else begin + item.piece.seconds
    return [(max(a, begin) - begin, min(b, end) - begin, who) for a, b, who in item.target if a < end and b > begin]
