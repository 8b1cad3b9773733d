"""Similarity of a student to its teacher, per layer, without labels."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.core.similarity import linear_cka
from sottovoce.core.types import SAMPLE_RATE, Batch, Features
from sottovoce.data import Recordings, Skipped
from sottovoce.data.corrupt import NOISES, add_noise, reverberate, voices
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.pieces import NOT_FINITE
from sottovoce.evaluation.features.store import Piece, decoded
from sottovoce.evaluation.kinds.task import Measure, Metric, Outcome, Task, Workbench
from sottovoce.evaluation.statistics.metrics import library, unit_agreement
from sottovoce.evaluation.subjects.subject import Subject

Frames = list[Tensor]  # of one layer: the valid frames of each batch, (n, D) float32
REVERB = "reverb"
CACHE_SIZE = 200  # most labellings in the cache
_labels: dict[tuple[bytes, int, int], NDArray[np.int32]] = {}  # cache: all students share the teacher's labels


@TASKS.register("fidelity")
class Fidelity(Task):
    """Per-layer similarity to the teacher: cosine, best linear map, CKA; in full also discrete units, noise and reverberation."""

    @dataclass(frozen=True)
    class Config:
        """frames: the most frames to compare. ridge: regularisation of the linear map, as a share of the mean variance.

        full: also compare k-means units (`units`: numbers of clusters), and both models on corrupted audio (`corruptions`): with noise
        `snr_db` dB below the speech, and in a room with a reverberation time (60 dB) of `rt60` s.
        """

        frames: int = 20_000
        ridge: float = 1e-3
        full: bool = False
        units: tuple[int, ...] = (100, 500)
        corruptions: tuple[str, ...] = (*NOISES, REVERB)
        snr_db: float = 10.0
        rt60: float = 0.4
        seed: int = 0

        def __post_init__(self) -> None:
            unknown = [name for name in self.corruptions if name not in (*NOISES, REVERB)]
            if unknown:
                raise ValueError(f"corruptions: {', '.join(unknown)} is none of {', '.join((*NOISES, REVERB))}")

    config: Config
    title = "Fidelity to the teacher"
    reads = "audio only"
    compares = True
    held_out = True
    timed = False  # it stops when it has enough audio

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        """Uses the split "test" if there is one, in the order of a hash, until there are enough frames. There are no intervals and
        no seeds."""
        if bench.reference is None:
            raise ValueError("fidelity compares with a teacher; name it with --vs")
        began = time.monotonic()
        wanted = [item for item in recordings if item.fields.get("split") == "test"] or list(recordings)
        skipped = list(recordings.skipped)
        batches: list[Batch] = []
        seconds = 0.0
        for piece, wave in decoded([Piece(item) for item in sorted(wanted, key=lambda item: draw(item.id))]):
            if isinstance(wave, str):
                skipped.append(Skipped(path=piece.recording.path, reason=wave))
                continue
            batches.append(Batch(wave[None], None, (piece.recording.id,)))
            seconds += len(wave) / SAMPLE_RATE
            bench.progress("features", min(seconds * subject.frame_rate, self.config.frames), self.config.frames)
            if seconds * subject.frame_rate >= self.config.frames:
                break
        result = self.run(SubjectModule(subject.frozen), SubjectModule(bench.reference.frozen), batches)
        if subject.dim != bench.reference.dim:  # no value, and not 0
            for row in (result["mean"], *result["layers"]):
                row["cosine"] = float("nan")
        paths = {item.id: item.path for item in recordings}
        broken = [batches[place].ids[0] for place in result.pop("not_finite", [])]
        skipped += [Skipped(path=paths[name], reason=NOT_FINITE) for name in broken]
        rest = {key: value for key, value in result.items() if key != "mean"}
        return Outcome(
            measures=[
                Measure(Metric(name, "", "lower" if name == "error" else "higher"), value, None, None, (value,), result["frames"])
                for name, value in sorted(result["mean"].items(), key=lambda pair: pair[0] != "explained")
                if value is not None
            ],
            data={
                "splits": {
                    "test": {"recordings": len(batches) - len(broken), "hours": round(seconds / 3600, 4), "speakers": None}
                }
            },
            seconds={"scoring": time.monotonic() - began},
            details={**rest, "reference": bench.reference.record()},
            skipped=skipped,
        )

    @torch.no_grad()
    def run(self, model: nn.Module, reference: nn.Module, batches: Sequence[Batch]) -> dict[str, Any]:
        """`layers`: the result of `compare` (in full also of `discrete`) for each student layer and the teacher layer at the same
        relative depth; `mean`: over the layers except 0. In full also `robustness`. ValueError without audio."""
        student, teacher, left_out = self.frames_of_layers(model, reference, batches)
        batches = [batch for i, batch in enumerate(batches) if i not in left_out]
        rows = [self.compare(x, y) for x, y in zip(student, teacher, strict=True)]
        result: dict[str, Any] = {"frames": sum(map(len, student[0]))}
        if left_out:
            result["not_finite"] = left_out
        if self.config.full:
            rows = [{**row, **self.discrete(x, y)} for row, x, y in zip(rows, student, teacher, strict=True)]
            result["robustness"] = self.robustness(model, reference, batches, teacher)
        return {**result, "mean": mean(rows), "layers": [{"layer": i, **row} for i, row in enumerate(rows)]}

    def frames_of_layers(
        self, model: nn.Module, reference: nn.Module, batches: Iterable[Batch]
    ) -> tuple[list[Frames], list[Frames], list[int]]:
        """The frames of each student layer; those of the teacher layer at the same relative depth; and the indices of batches that are
        left out because a model gives values that are not finite. ValueError when no batch is left."""
        student_frames: list[Frames] = []
        teacher_frames: list[Frames] = []
        frame_count = 0
        left_out = []
        for place, batch in enumerate(batches):
            student = model(batch.wave, batch.lengths)
            teacher = reference(batch.wave, batch.lengths)
            frames = student.last.shape[1]
            teacher = alike(teacher, frames)
            valid = student.valid()
            depth, height = len(student.hidden) - 1, len(teacher.hidden) - 1
            if not student_frames:
                student_frames, teacher_frames = [[] for _ in range(depth + 1)], [[] for _ in range(depth + 1)]
            pairs = [
                (student.hidden[layer][valid].float(), teacher.hidden[layer * height // depth][valid].float())
                for layer in range(depth + 1)
            ]
            if not all(x.isfinite().all() for pair in pairs for x in pair):
                left_out.append(place)
                continue
            for layer, (own, other) in enumerate(pairs):
                student_frames[layer].append(own)
                teacher_frames[layer].append(other)
            frame_count += int(valid.sum())
            if frame_count >= self.config.frames:
                break
        if left_out and not frame_count:
            raise ValueError("the models give no finite values on any of the audio to compare on")
        if not student_frames:
            raise ValueError("there is no held-out audio to compare on")
        return student_frames, teacher_frames, left_out

    def compare(self, student: Frames, teacher: Frames) -> dict[str, float | None]:
        """cosine: mean over frames; ``None`` when the widths differ. mapped: the cosine after the best linear map to the teacher, fitted
        on every other batch and measured on the rest. explained: share of the teacher's variance that the map explains. error: the
        rest. cka: `linear_cka`."""
        pairs = list(zip(student, teacher, strict=True))
        if len(pairs) == 1:  # one batch: split it in time
            x, y = pairs[0]
            half = len(x) // 2
            pairs = [(x[:half], y[:half]), (x[half:], y[half:])]
        fit_x, fit_y = (torch.cat([pair[i] for pair in pairs[::2]]) for i in (0, 1))
        x, y = (torch.cat([pair[i] for pair in pairs[1::2]]) for i in (0, 1))
        mean_x, mean_y = fit_x.mean(0), fit_y.mean(0)
        a, b = (fit_x - mean_x).double(), (fit_y - mean_y).double()
        gram = a.T @ a
        gram.diagonal().add_(self.config.ridge * gram.diagonal().mean() + 1e-9)
        weight = torch.linalg.solve(gram, a.T @ b).float()
        mapped = (x - mean_x) @ weight + mean_y
        everything, target = torch.cat([fit_x, x]), torch.cat([fit_y, y])
        same = everything.shape[1] == target.shape[1]
        error = float((mapped - y).square().sum() / (y - mean_y).square().sum())
        return {
            "cosine": float(F.cosine_similarity(everything, target, dim=-1).mean()) if same else None,
            "mapped": float(F.cosine_similarity(mapped, y, dim=-1).mean()),
            "explained": 1 - error,
            "error": error,
            "cka": linear_cka(everything, target),
        }

    def discrete(self, student: Frames, teacher: Frames) -> dict[str, float]:
        """For each number of units: nmi and purity between the student's and the teacher's units (`unit_agreement`).

        k-means on the frames of each model labels them, and the two labellings are compared, so no map between the models is needed.
        k-means depends on its start: ``refit`` compares the teacher with itself from another start, the agreement
        that a perfect student with other coordinates could expect.
        """
        agreement: dict[str, float] = {}
        for count in self.config.units:
            student_labels, teacher_labels, again = (
                self.labels(student, count),
                self.labels(teacher, count),
                self.labels(teacher, count, 1),
            )
            for kind, labels in (("", student_labels), ("_refit", again)):
                agreement |= {f"{name}_{count}{kind}": value for name, value in unit_agreement(labels, teacher_labels).items()}
        return agreement

    def labels(self, frames: Frames, count: int, start: int = 0) -> NDArray[np.int32]:
        """Labels from mini-batch k-means with `count` clusters, as in HuBERT (Hsu et al. 2021). ValueError with too few frames."""
        x = torch.cat(frames).cpu().numpy()
        if len(x) < count:
            raise ValueError(f"{len(x)} frames are too few for {count} units: give more audio, or ask for fewer units")
        seed = self.config.seed + start
        key = (hashlib.blake2b(x.data).digest(), count, seed)
        labels = _labels.pop(key, None)
        if labels is None:
            labels = library("sklearn.cluster").MiniBatchKMeans(count, n_init=1, random_state=seed).fit(x).labels_
        _labels[key] = labels  # the most recently used is last
        if len(_labels) > CACHE_SIZE:
            del _labels[next(iter(_labels))]
        return labels

    def robustness(
        self, model: nn.Module, reference: nn.Module, batches: Sequence[Batch], clean: list[Frames]
    ) -> dict[str, dict[str, dict[str, float | None]]]:
        """For each corruption, compares ``student`` and ``teacher`` on corrupted audio with the teacher on clean audio (`clean`); means
        over layers. A student is robust if it loses no more than its teacher."""
        results = {}
        for name in self.config.corruptions:
            corrupted = (self.corrupt(name, batches, i) for i in range(len(batches)))
            student, teacher, left_out = self.frames_of_layers(model, reference, corrupted)
            if left_out:
                raise ValueError(f"a model gives values that are not finite on audio with {name}; leave it out of 'corruptions'")
            models = {"student": student, "teacher": teacher}
            results[name] = {
                who: mean([self.compare(x, y) for x, y in zip(frames, clean, strict=True)]) for who, frames in models.items()
            }
        return results

    def corrupt(self, name: str, batches: Sequence[Batch], index: int) -> Batch:
        """Batch `index`, corrupted. Voices for babble come from the next batches."""
        batch, seed = batches[index], self.config.seed + index
        if name == REVERB:
            wave = reverberate(batch.wave, batch.lengths, self.config.rt60, seed)
        else:
            nearby = [batches[(index + step) % len(batches)] for step in range(1, min(5, len(batches)))]
            others = [voice for other in nearby for voice in voices(other.wave, other.lengths)] if name == "babble" else []
            wave = add_noise(batch.wave, batch.lengths, name, self.config.snr_db, seed, others)
        return Batch(wave, batch.lengths, batch.ids)


class SubjectModule(nn.Module):
    """A subject as a module on decoded waves."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def forward(self, wave: Tensor, lengths: Tensor | None) -> Features:
        return self.subject.features(Batch(wave, lengths))


def alike(teacher: Features, frames: int) -> Features:
    """The teacher's features on the student's `frames` frames: joined where one lasts a whole number of the teacher's, else resampled."""
    count = teacher.last.shape[1]
    join = max(1, round(count / frames))
    if abs(count - frames * join) <= max(2 * join, frames * join // 50):  # rates are alike, and lengths are rounded
        return teacher.on_frames(frames, join)
    return teacher.on_frames(frames, rate=count / frames)


def mean(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each number over the layers except 0, the front end; ``None`` if a layer has no value."""
    means: dict[str, float | None] = {}
    for key in rows[0]:
        values = [value for row in rows[1:] if (value := row[key]) is not None]
        means[key] = sum(values) / max(1, len(values)) if len(values) == len(rows) - 1 else None
    return means
