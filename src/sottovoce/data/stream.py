"""Decoded batches: an endless training stream with an exact position, and a fixed validation list."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sottovoce.core.types import SAMPLE_RATE, Batch
from sottovoce.data import workers
from sottovoce.data.batches import Job, Plan, bucket, make_job
from sottovoce.data.config import DataConfig
from sottovoce.data.decode import BadAudio, played, read_audio
from sottovoce.data.recording import Note, Samples, Skipped, count_reasons
from sottovoce.data.recording import skipped as skipped_row
from sottovoce.data.scan import Utterance

SLACK = SAMPLE_RATE // 10  # samples by which a duration may be wrong without a second look


@dataclass(frozen=True)
class Decoded:
    """What a worker sends back. Arrays, not tensors: they need no shared memory, which containers ration. wave is None: nothing usable."""

    epoch: int
    index: int
    wave: Samples | None
    lengths: list[int] | None
    ids: tuple[str, ...]
    skipped: list[Skipped] = field(default_factory=list)
    labels: tuple[str, ...] = ()

    def batch(self) -> Batch:
        assert self.wave is not None
        lengths = None if self.lengths is None else torch.tensor(self.lengths, dtype=torch.int64)
        return Batch(torch.from_numpy(self.wave), lengths, self.ids, self.labels)


def decode(job: Job) -> Decoded:
    """Read every row of a batch; rows that cannot be read are left out and named."""
    rows: list[Samples] = []
    ids: list[str] = []
    labels: list[str] = []
    skipped: list[Skipped] = []
    for utterance, begin, samples in zip(job.utterances, job.begins, job.samples, strict=True):
        try:
            rows.append(played(_row(utterance, begin, samples, job.min_samples), job.speed))
            ids.append(utterance.id)
            if job.label:
                label = utterance.recording.fields.get(job.label, "")
                labels.append(f"{label} x{job.speed:g}" if label and job.speed != 1 else label)
        except BadAudio as problem:
            skipped.append(skipped_row(utterance.recording, problem.reason))
    if not rows:
        return Decoded(job.epoch, job.index, None, None, (), skipped)
    sizes = [len(row) for row in rows]
    if not job.padded:  # a row may be some samples short; all rows give up those
        sizes = [min(sizes)] * len(sizes)
    wave = np.zeros((len(rows), max(sizes)), np.float32)
    for target, row, size in zip(wave, rows, sizes, strict=True):
        target[:size] = row[:size]
    lengths = None if len(set(sizes)) == 1 else sizes
    return Decoded(job.epoch, job.index, wave, lengths, tuple(ids), skipped, tuple(labels))


def _row(utterance: Utterance, begin: int, samples: int, min_samples: int) -> Samples:
    """Samples of one row: at most `samples`, at least half of them. Raises BadAudio."""
    audio: Samples | None = None
    try:
        audio = read_audio(utterance.recording, utterance.start + begin / SAMPLE_RATE, samples / SAMPLE_RATE)
    except BadAudio as problem:
        if problem.reason != "no samples" or not begin:
            raise
    if audio is None or (begin and len(audio) < samples - SLACK):  # less there than claimed: take what there is
        audio = read_audio(utterance.recording, utterance.start, samples / SAMPLE_RATE)
    # The other rows are cut to this one, so a row much shorter than promised would waste them.
    if len(audio) < max(min(samples, min_samples) - SLACK, samples // 2):
        raise BadAudio("shorter than its header or manifest says")
    return audio


class SkipLog:
    """Skipped recordings and notes, in memory and, when a file is given, as JSON lines that survive a resume. What was said is not said
    again: a recording that cannot be read is met in every epoch."""

    def __init__(self, file: str | Path | None = None) -> None:
        self.rows: list[Skipped] = []
        self.notes: list[Note] = []
        self._file = None if file is None else Path(file)
        self._known: set[str] = set()
        self._written: set[str] = set()
        self._torn = False  # the file ends in a line cut short by a crash
        if self._file is not None and self._file.exists():
            text = self._file.read_text(encoding="utf-8", errors="replace")
            self._torn = bool(text) and not text.endswith("\n")
            self._written = set(text.splitlines())

    def add(self, rows: Sequence[Skipped], write: bool = True) -> None:
        self._append([row for row in rows if self._fresh(row.get("id") or row["path"], row, self.rows)], write)

    def note(self, rows: Sequence[Note], write: bool = True) -> None:
        self._append([row for row in rows if self._fresh(row["path"] + row["note"], row, self.notes)], write)

    def _fresh(self, key: str, row: Any, into: list[Any]) -> bool:
        if key in self._known:
            return False
        self._known.add(key)
        into.append(row)
        return True

    def _append(self, rows: Sequence[Mapping[str, Any]], write: bool) -> None:
        lines = [
            line for row in rows if (line := json.dumps(row, ensure_ascii=True)) not in self._written
        ]  # a name is bytes: see files
        if lines and write and self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8") as stream:
                stream.write("\n" * self._torn + "".join(line + "\n" for line in lines))
            self._torn = False


class _Jobs(Dataset[Decoded]):
    """Turns the sampler's items, which are the jobs themselves, into audio; so a worker holds no copy of the corpus's list."""

    def __getitem__(self, job: Any) -> Decoded:
        return decode(job)


class _Endless:
    """A sampler of jobs from a position on."""

    def __init__(self, plan: Plan, epoch: int, index: int) -> None:
        self.plan, self.epoch, self.index = plan, epoch, index

    def __iter__(self) -> Iterator[Job]:
        return self.plan.jobs(self.epoch, self.index)


def _same(item: Any) -> Any:
    return item


def _start_worker(parent: int, in_main_thread: bool, _: int) -> None:
    workers.start(parent, in_main_thread)
    torch.set_num_threads(1)


class Stream:
    """Endless training batches. ``next(stream)`` gives a Batch; ``state()`` is the position of the step that comes next (see `Plan`).

    The audio at a position depends on the data, the configuration, the seed, the rank and the `multiple` of the plan, and on nothing else:
    not on the number of workers, not on how the position was reached. Rows that cannot be read are left out, a batch without any is passed
    over, and both are recorded in ``skipped``. Raises ValueError when a whole epoch gives no batch.
    """

    def __init__(self, plan: Plan, log: SkipLog | None = None) -> None:
        self.plan = plan
        self._log = SkipLog() if log is None else log
        self._epoch = self._index = 0
        self._source: Iterator[Decoded] | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        if self._source is None:
            self._source = self._open()
        for _ in range(self.plan.steps(self._epoch) + 1):
            decoded = next(self._source)
            self._epoch, self._index = self.plan.after(decoded.epoch, decoded.index)
            self._log.add(decoded.skipped)
            if decoded.wave is not None:
                return decoded.batch()
        raise ValueError(f"no batch of a whole epoch could be read ({count_reasons(self.skipped)}); check the audio files")

    @property
    def skipped(self) -> list[Skipped]:
        """Recordings found unusable so far, one row per path."""
        return self._log.rows

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank in the current epoch; it may differ a little between epochs."""
        return self.plan.steps(self._epoch)

    def state(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._index}

    def load(self, state: Mapping[str, int]) -> None:
        """Go to a position given by `state()`, of this or another rank, of any number of ranks."""
        self.close()
        self._epoch, self._index = int(state["epoch"]), int(state["batch"])

    def close(self) -> None:
        """End the workers, those that hang too; the next batch starts new ones."""
        running = list(getattr(self._source, "_workers", ()))
        self._source = None  # which asks them to end, and waits for some seconds
        workers.end(running)

    def _open(self) -> Iterator[Decoded]:
        # Its own generator: DataLoader would otherwise draw from the global one, and a resumed run would then differ.
        count = min(self.plan.config.workers, _cores())
        main = threading.current_thread() is threading.main_thread()
        loader: DataLoader[Decoded] = DataLoader(
            _Jobs(),
            sampler=cast(Any, _Endless(self.plan, self._epoch, self._index)),
            batch_size=None,
            num_workers=count,
            collate_fn=_same,
            generator=torch.Generator(),
            worker_init_fn=partial(_start_worker, os.getpid(), main),
            prefetch_factor=4 if count else None,
        )
        batches = iter(loader)
        workers.own(getattr(batches, "_workers", ()))
        return batches


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Fixed(Sequence[Batch]):
    """Validation batches: the same at every pass, cropped from the middle, decoded once and kept (300 s are 19 MB)."""

    def __init__(self, utterances: Sequence[Utterance], config: DataConfig, log: SkipLog | None = None) -> None:
        batches = bucket([utterance.samples for utterance in utterances], config, None)
        self.jobs = [make_job([utterances[i] for i in rows], config, None, index=n) for n, rows in enumerate(batches)]
        self._log = SkipLog() if log is None else log
        self._cached: list[Batch] | None = None

    @property
    def seconds(self) -> float:
        return sum(utterance.seconds for job in self.jobs for utterance in job.utterances)

    @property
    def largest(self) -> tuple[int, int]:
        """Rows and samples of the largest batch; nothing where none is held out."""
        return max(
            ((len(job.samples), max(job.samples)) for job in self.jobs), key=lambda shape: shape[0] * shape[1], default=(0, 0)
        )

    def _batches(self) -> list[Batch]:
        if self._cached is None:
            decoded = [decode(job) for job in self.jobs]
            for item in decoded:
                self._log.add(item.skipped)
            self._cached = [item.batch() for item in decoded if item.wave is not None]
        return self._cached

    def __len__(self) -> int:
        return len(self._batches())

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        return self._batches()[index]
