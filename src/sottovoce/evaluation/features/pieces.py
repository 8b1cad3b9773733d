"""Pieces of audio, and their features from a model."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE, Batch
from sottovoce.data import BadAudio, Recording, read_audio
from sottovoce.data.recording import file_state
from sottovoce.evaluation.subjects.subject import Subject

Kind = Literal["frames", "pooled"]

SHORTEST = 0.1  # seconds; shorter audio is padded with silence, so that any encoder returns a frame
NOT_FINITE = "the model gives values that are not finite"
BATCH_SECONDS = 30.0  # of audio encoded at once


@dataclass(frozen=True)
class Piece:
    """The part of a recording from `start` to `start + seconds` (``None``: to its end)."""

    recording: Recording
    start: float = 0.0
    seconds: float | None = None

    @cached_property
    def key(self) -> str:
        """A hash of what decides the audio: the file's path, size and time of change and the loader's ``identity()`` if it has one."""
        item = self.recording
        identity = getattr(item.loader, "identity", None)
        state = file_state(item.path)
        parts: tuple[object, ...] = (item.id, os.path.abspath(item.path), item.start, item.duration, item.channel)
        parts = (*parts, self.start, self.seconds, state, *([identity()] if identity is not None else []))
        return hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()

    @property
    def length(self) -> float | None:
        """Seconds; ``None`` if neither the recording nor the piece has a known length."""
        duration = self.recording.duration
        rest = None if duration is None else max(duration - self.start, 0.0)
        return self.seconds if rest is None else rest if self.seconds is None else min(rest, self.seconds)

    def read(self) -> Tensor:
        """(S,) samples. Raises BadAudio."""
        wave = torch.from_numpy(read_audio(self.recording, self.start, self.seconds))
        if not len(wave):
            raise BadAudio("no samples")
        return torch.nn.functional.pad(wave, (0, max(0, int(SHORTEST * SAMPLE_RATE) - len(wave))))


class IndexEntry(NamedTuple):
    """The first row of a piece in the bank (-1: not kept), its frames and seconds; or the reason why it cannot be used."""

    begin: int
    frames: int
    seconds: float
    reason: str = ""


class Encoded(NamedTuple):
    """Features of a piece: (T, L, D) states, or (1, L, D) if pooled; its frames and seconds."""

    states: Tensor
    frames: int
    seconds: float


def encode(
    subject: Subject,
    pieces: Sequence[Piece],
    kind: Kind,
    seconds_per_batch: float = BATCH_SECONDS,
    read: Callable[[Piece], Tensor] = Piece.read,
) -> Iterator[tuple[Piece, Encoded | IndexEntry]]:
    """Each piece with its features, or with the reason why it cannot be used, sorted by length."""
    order = sorted(pieces, key=lambda piece: piece.seconds or piece.recording.duration or 0.0)
    batch: list[tuple[Piece, Tensor]] = []
    for piece, wave in decoded(order, read=read):
        if isinstance(wave, str):
            yield piece, IndexEntry(-1, 0, 0.0, wave)
            continue
        longest = max(len(wave), max((len(w) for _, w in batch), default=0))
        if batch and longest * (len(batch) + 1) > seconds_per_batch * SAMPLE_RATE:
            yield from _states(subject, batch, kind)
            batch = []
        batch.append((piece, wave))
    if batch:
        yield from _states(subject, batch, kind)


def _states(subject: Subject, batch: list[tuple[Piece, Tensor]], kind: Kind) -> Iterator[tuple[Piece, Encoded | IndexEntry]]:
    waves = [wave for _, wave in batch]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    same = len(set(lengths.tolist())) == 1
    states, frames = subject.states(Batch(padded, None if same else lengths))
    for (piece, wave), rows, count in zip(batch, states, frames.tolist(), strict=True):
        own = rows[: max(1, count)].float()
        if not torch.isfinite(own).all():
            yield piece, IndexEntry(-1, 0, 0.0, NOT_FINITE)
            continue
        yield piece, Encoded(own.mean(0, keepdim=True) if kind == "pooled" else own, len(own), len(wave) / SAMPLE_RATE)


def decoded(
    pieces: Sequence[Piece], ahead: int = 64, read: Callable[[Piece], Tensor] = Piece.read
) -> Iterator[tuple[Piece, Tensor | str]]:
    """Each piece with its audio, or with the reason why it cannot be read. Threads decode `ahead` pieces in advance."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[tuple[Piece, Future[Tensor | str]]] = deque()
        todo = iter(pieces)
        while True:
            for piece in itertools.islice(todo, ahead - len(waiting)):
                waiting.append((piece, pool.submit(_wave, piece, read)))
            if not waiting:
                return
            piece, future = waiting.popleft()
            yield piece, future.result()


def _wave(piece: Piece, read: Callable[[Piece], Tensor] = Piece.read) -> Tensor | str:
    try:
        return read(piece)
    except BadAudio as problem:
        return problem.reason


def entry_of(encoded: Encoded | IndexEntry) -> IndexEntry:
    """The entry without rows of a piece whose features are not kept, or the reason why it cannot be used."""
    return encoded if isinstance(encoded, IndexEntry) else IndexEntry(-1, encoded.frames, encoded.seconds)


def readable(piece: Piece) -> bool:
    return not isinstance(_wave(piece), str)
