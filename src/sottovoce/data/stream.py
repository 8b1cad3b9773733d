"""Decodes batches: an endless training stream with an exact position, and a fixed list for validation."""

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
from sottovoce.data.degradations.base import degraded
from sottovoce.data.recording import Note, Samples, Skipped, count_reasons
from sottovoce.data.recording import skipped as skipped_row
from sottovoce.data.scan import Utterance

SLACK = SAMPLE_RATE // 10  # samples; a row this much shorter than expected is still accepted


@dataclass(frozen=True)
class Decoded:
    """A batch decoded by a worker. Arrays, unlike tensors, need no shared memory, which containers limit. wave None: no usable row."""

    epoch: int
    index: int
    wave: Samples | None
    lengths: list[int] | None
    ids: tuple[str, ...]
    skipped: list[Skipped] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def batch(self) -> Batch:
        assert self.wave is not None
        lengths = None if self.lengths is None else torch.tensor(self.lengths, dtype=torch.int64)
        return Batch(torch.from_numpy(self.wave), lengths, self.ids, self.labels, self.texts)


def decode(job: Job) -> Decoded:
    """Read the rows of a batch. Rows that cannot be read are left out and listed in ``skipped``."""
    rows: list[Samples] = []
    ids: list[str] = []
    labels: list[str] = []
    texts: list[str] = []
    skipped: list[Skipped] = []
    draws = job.draws or (0,) * len(job.utterances)
    for utterance, begin, samples, draw in zip(job.utterances, job.begins, job.samples, draws, strict=True):
        try:
            row = _row(utterance, begin, samples, job.min_samples)
            rows.append(degraded(job.degradations, played(row, job.speed), draw))
            ids.append(utterance.id)
            if job.label:
                label = utterance.recording.fields.get(job.label, "")
                labels.append(f"{label} x{job.speed:g}" if label and job.speed != 1 else label)
            if job.text:  # a part of a recording does not say all of its text
                whole = utterance.whole and len(row) >= samples - SLACK
                texts.append(utterance.recording.fields.get(job.text, "") if whole else "")
        except BadAudio as problem:
            skipped.append(skipped_row(utterance.recording, problem.reason))
    if not rows:
        return Decoded(job.epoch, job.index, None, None, (), skipped)
    sizes = [len(row) for row in rows]
    if not job.padded:  # crop to the shortest row
        sizes = [min(sizes)] * len(sizes)
    wave = np.zeros((len(rows), max(sizes)), np.float32)
    for target, row, size in zip(wave, rows, sizes, strict=True):
        target[:size] = row[:size]
    lengths = None if len(set(sizes)) == 1 else sizes
    return Decoded(job.epoch, job.index, wave, lengths, tuple(ids), skipped, tuple(labels), tuple(texts))


def _row(utterance: Utterance, begin: int, samples: int, min_samples: int) -> Samples:
    """Samples of one row: at most `samples`, at least half of them. Raises BadAudio."""
    audio: Samples | None = None
    try:
        audio = read_audio(utterance.recording, utterance.start + begin / SAMPLE_RATE, samples / SAMPLE_RATE)
    except BadAudio as problem:
        if problem.reason != "no samples" or not begin:
            raise
    if audio is None or (begin and len(audio) < samples - SLACK):  # the file is shorter than claimed: read from its start
        audio = read_audio(utterance.recording, utterance.start, samples / SAMPLE_RATE)
    # The other rows are cropped to this one: drop it if it is much shorter than expected.
    if len(audio) < max(min(samples, min_samples) - SLACK, samples // 2):
        raise BadAudio("shorter than its header or manifest says")
    return audio


class SkipLog:
    """Skipped recordings and notes, in memory and, if a file is given, as JSON lines. Each is logged once, also over epochs and resumes."""

    def __init__(self, file: str | Path | None = None) -> None:
        self.rows: list[Skipped] = []
        self.notes: list[Note] = []
        self._file = None if file is None else Path(file)
        self._known: set[str] = set()
        self._written: set[str] = set()
        self._torn = False  # a crash cut off the last line of the file
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
        # ASCII, because a name may not be UTF-8 (see files)
        lines = [line for row in rows if (line := json.dumps(row, ensure_ascii=True)) not in self._written]
        if lines and write and self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8") as stream:
                stream.write("\n" * self._torn + "".join(line + "\n" for line in lines))
            self._torn = False


class _Jobs(Dataset[Decoded]):
    """Decodes the jobs that the sampler yields, so that workers hold no copy of the corpus's list."""

    def __getitem__(self, job: Any) -> Decoded:
        return decode(job)


class _Endless:
    """An endless sampler of jobs from a position on."""

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
    """Endless training batches. ``next(stream)`` gives a Batch; ``state()`` is the position of the next step (see `Plan`).

    The audio at a position depends only on the data, the configuration, the seed, the rank and the `multiple` of the plan, not on the
    number of workers or on resumes. Rows that cannot be read are left out and recorded in ``skipped``; a batch without rows is passed
    over. Raises ValueError when a whole epoch gives no batch.
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
        """Unusable recordings so far, each once."""
        return self._log.rows

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of this rank in the current epoch; differs slightly between epochs."""
        return self.plan.steps(self._epoch)

    def state(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._index}

    def load(self, state: Mapping[str, int]) -> None:
        """Go to a position from `state()`, of any rank and any number of ranks."""
        self.close()
        self._epoch, self._index = int(state["epoch"]), int(state["batch"])

    def close(self) -> None:
        """End the workers, even if they hang. The next batch starts new ones."""
        running = list(getattr(self._source, "_workers", ()))
        self._source = None  # asks the workers to end and waits a few seconds
        workers.end(running)

    def _open(self) -> Iterator[Decoded]:
        # A separate generator: otherwise DataLoader draws from the global one, and a resumed run differs.
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
    """Validation batches: always the same, with centred crops, decoded once and kept in memory (300 s are 19 MB)."""

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
        """(rows, samples) of the largest batch; (0, 0) without validation data."""
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
