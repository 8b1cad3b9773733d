"""Features of a frozen model, computed once for each recording and kept on disk, so that ten trials do not cost ten encodings.

One bank for each model, kind and crop: a file of rows that only ever grows, and an index of which rows belong to which recording. Tasks
that share recordings share rows. Banks of other models make room when the store's limit is reached, the longest unused first; what does
not fit even then is computed anew whenever it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from sottovoce.data import BadAudio, Recording, Skipped, read_audio
from sottovoce.ledger import write_atomically
from sottovoce.probing.subject import Subject
from sottovoce.types import SAMPLE_RATE, Batch

Kind = Literal["frames", "pooled"]
Progress = Callable[[int, int], None]

LARGEST = 60_000.0  # of a half-precision number, nearly
SHORTEST = 0.1  # seconds; less is padded with silence, so that every encoder gives at least one frame
FORMAT = 1
ROWS, INDEX = "rows.f16", "index.json"


@dataclass(frozen=True)
class Piece:
    """Audio that features are wanted of: the first `seconds` of a recording (``None``: all), or its `start`..`start + seconds`."""

    recording: Recording
    start: float = 0.0
    seconds: float | None = None

    @cached_property
    def key(self) -> str:
        """Names the audio by what decides it, the file's size and time of change included. Looks at the file once."""
        item = self.recording
        stat: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            found = os.stat(item.path)
            stat = (found.st_size, found.st_mtime_ns)
        parts = (item.id, os.path.abspath(item.path), item.start, item.duration, item.channel, self.start, self.seconds, stat)
        return hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()

    def read(self) -> Tensor:
        """(S,) samples. Raises BadAudio."""
        wave = torch.from_numpy(read_audio(self.recording, self.start, self.seconds))
        if not len(wave):
            raise BadAudio("no samples")
        return torch.nn.functional.pad(wave, (0, max(0, int(SHORTEST * SAMPLE_RATE) - len(wave))))


class Rows(NamedTuple):
    """Features of B items, one after another. values: (N, L, D), half precision or float32, to be multiplied by `unit`, (L,); lengths:
    (B,), rows of each item, N in all."""

    values: Tensor
    lengths: Tensor
    unit: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(*(part.to(device) for part in self))


@dataclass(frozen=True)
class FeatureSet:
    """Features of those pieces that could be read. `usable[i]`: the position of item i in what was asked for; `skipped`: the rest.

    kind "frames": an item is (T, L, D); "pooled": (1, L, D), its mean over time. frames: (N,) frames per item, an estimate where
    nothing is kept. seconds: the time it took to compute them; hours: of audio.
    """

    subject: Subject
    kind: Kind
    pieces: list[Piece]
    usable: list[int]
    skipped: list[Skipped]
    frames: list[int]
    hours: float
    entries: list[Entry]
    bank: Bank | None = None
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.usable)

    def item(self, i: int) -> Tensor:
        """(T, L, D) float32."""
        if self.bank is not None and self.entries[i].begin >= 0:
            return self.bank.rows(self.entries[i])
        piece = self.pieces[i]
        _, found = next(encode(self.subject, [piece], self.kind))
        assert isinstance(found, Encoded), f"{piece.recording.path} could be read a moment ago: {found.reason}"
        return found.states.float().cpu()

    def batch(self, items: Sequence[int]) -> Rows:
        """Features of some items, as they are kept."""
        chosen = [self.entries[i] for i in items]
        if self._table is not None:
            return Rows(self._table[items], torch.ones(len(items), dtype=torch.long), torch.ones(self.subject.layers))
        if self.bank is not None and all(entry.begin >= 0 for entry in chosen):
            return self.bank.batch(chosen)
        found = [self.item(i) for i in items]
        return Rows(torch.cat(found), torch.tensor([len(rows) for rows in found]), torch.ones(self.subject.layers))

    @cached_property
    def _table(self) -> Tensor | None:
        """(N, L, D): all of a pooled set, which is small enough to stay in memory."""
        if self.kind != "pooled" or self.bank is None or not len(self):
            return None
        return torch.cat([self.item(i) for i in range(len(self))])


def moments(sets: Sequence[FeatureSet], most: int) -> tuple[Tensor, Tensor]:
    """(L, D) mean and standard deviation over the rows of the sets, float64 on the CPU, of up to about `most` items spread over them."""
    count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
    step = max(1, sum(len(each) for each in sets) // most)
    for features in sets:
        for i in range(0, len(features), step):
            rows = features.item(i).double()
            count, total, square = count + len(rows), total + rows.sum(0), square + rows.square().sum(0)
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=0).sqrt()


class FeatureStore:
    """Banks of features in a folder, `limit_gb` in all (0: nothing is kept, every request encodes).

    folder: by default ``$SOTTOVOCE_CACHE/features`` or ``~/.cache/sottovoce/features``.
    """

    def __init__(self, folder: Path | None = None, limit_gb: float = 10.0, seconds_per_batch: float = 30.0) -> None:
        home = Path(os.environ.get("SOTTOVOCE_CACHE") or Path.home() / ".cache" / "sottovoce")
        self.folder = (folder or home / "features").expanduser()
        self.limit = limit_gb * 1e9
        self.seconds_per_batch = seconds_per_batch

    def get(self, subject: Subject, pieces: Sequence[Piece], kind: Kind, progress: Progress | None = None) -> FeatureSet:
        """Features of `pieces`; what no bank has is computed and kept. `progress` is called with (done, to do)."""
        began = time.monotonic()
        keys = [piece.key for piece in pieces]
        if self.limit <= 0:
            lengths = {key: _measure(subject, piece) for key, piece in zip(keys, pieces, strict=True)}
            return _select(subject, pieces, keys, kind, lengths, None)
        bank = Bank(self.folder / f"{subject.fingerprint}-{kind}-{FORMAT}", kind, subject)
        bank.read()
        if any(key not in bank.index for key in keys):  # else nobody needs to be waited for
            self._fill(bank, subject, dict(zip(keys, pieces, strict=True)), progress)
        bank.open()
        made = _select(subject, pieces, keys, kind, bank.index, bank)
        return replace(made, seconds=time.monotonic() - began)

    def _fill(self, bank: Bank, subject: Subject, wanted: Mapping[str, Piece], progress: Progress | None) -> None:
        """Computes what the bank has not."""
        with bank.writing():
            missing = [piece for key, piece in wanted.items() if key not in bank.index]
            for done, (piece, found) in enumerate(encode(subject, missing, bank.kind, self.seconds_per_batch), 1):
                if isinstance(found, Encoded) and not self._room(bank, found.states.numel() * 2):
                    found = Entry(-1, found.frames, found.seconds)  # computed anew whenever it is asked for
                bank.add(piece, found)
                if progress is not None:
                    progress(done, len(missing))

    def _room(self, bank: Bank, wanted: int) -> bool:
        """Whether `wanted` more bytes fit, after deleting as many other banks as must be, the longest unused first."""
        if bank.size + wanted > self.limit:
            return False
        others = [path for path in self.folder.glob(f"*-{FORMAT}") if path != bank.folder]
        sizes = {path: (path / ROWS).stat().st_size for path in others if (path / ROWS).exists()}
        for path in sorted(sizes, key=lambda path: (path / INDEX).stat().st_mtime if (path / INDEX).exists() else 0.0):
            if bank.size + wanted + sum(sizes.values()) <= self.limit:
                break
            try:
                with FileLock(f"{path}.lock", timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
            except Timeout:  # being filled by another process, which may be waiting for ours
                continue
            del sizes[path]
        return bank.size + wanted + sum(sizes.values()) <= self.limit


class Entry(NamedTuple):
    """Where a piece's rows begin in the bank (-1: not kept), its frames and length in seconds; or why it cannot be read."""

    begin: int
    frames: int
    seconds: float
    reason: str = ""


class Encoded(NamedTuple):
    """What an encoder made of a piece: (T, L, D) or, pooled, (1, L, D) states, of how many frames and seconds."""

    states: Tensor
    frames: int
    seconds: float


class Bank:
    """One file of half-precision rows (L, D) and its index. Written by one process at a time; rows once written never change.

    Every layer has one scale, a power of two chosen at its first rows, that keeps large activations within half precision.
    """

    def __init__(self, folder: Path, kind: Kind, subject: Subject) -> None:
        self.folder, self.kind, self.layers, self.dim = folder, kind, subject.layers, subject.dim
        self.index: dict[str, Entry] = {}
        self._scale = torch.ones(0)
        self._end = 0
        self._file: BinaryIO | None = None
        self._map: NDArray[np.float16] | None = None

    @property
    def size(self) -> int:
        """Bytes of rows."""
        return self._end * self.layers * self.dim * 2

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Opens the bank for `add`, alone among all processes; what was added is kept when the block is left, by an error as well."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            self.folder.mkdir(exist_ok=True)
            self.read()
            with open(self.folder / ROWS, "ab") as file:
                file.truncate(self.size)  # rows that no index knows: a process died here
                self._file = file
                try:
                    yield
                finally:
                    file.flush()
                    self._file = None
                    entries = {key: list(entry) for key, entry in self.index.items()}
                    write_atomically(self.folder / INDEX, json.dumps({"scale": self._scale.tolist(), "entries": entries}))
        self._map = None

    def read(self) -> None:
        """Takes the index from the disk."""
        try:
            found = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {"scale": [], "entries": {}}
        self._scale = torch.tensor(found["scale"])
        entries = {key: Entry(*entry) for key, entry in found["entries"].items()}
        self.index = {key: entry for key, entry in entries.items() if entry.begin >= 0 or entry.reason}
        self._end = max((e.begin + self._length(e) for e in self.index.values() if e.begin >= 0), default=0)
        rows = self.folder / ROWS
        if not rows.exists() or rows.stat().st_size < self.size:  # damaged: begin again
            self.index, self._end, self._scale = {}, 0, torch.ones(0)

    def add(self, piece: Piece, found: Encoded | Entry) -> None:
        if isinstance(found, Entry):
            self.index[piece.key] = found
            return
        assert self._file is not None, "a bank takes rows only within writing()"
        if not len(self._scale):
            largest = found.states.abs().amax((0, 2)).clamp(min=1e-6)
            self._scale = torch.exp2(torch.ceil(torch.log2(largest / 256)).clamp(min=0)).cpu()
        rows = (found.states.cpu().float() / self._scale[:, None]).clamp(-LARGEST, LARGEST).half()
        self._file.write(rows.numpy().tobytes())
        self.index[piece.key] = Entry(self._end, found.frames, found.seconds)
        self._end += len(rows)

    def open(self) -> None:
        """Opens the rows for reading. From then on another process may delete the bank and this one still reads it."""
        if self._end:
            self._map = np.memmap(self.folder / ROWS, np.float16, "r", shape=(self._end, self.layers, self.dim))
            os.utime(self.folder / INDEX)  # used now: the longest unused bank goes first

    def rows(self, entry: Entry) -> Tensor:
        """(T, L, D) float32 of a piece whose rows are kept."""
        found = self.batch([entry])
        return found.values.float() * found.unit[:, None]

    def batch(self, entries: Sequence[Entry]) -> Rows:
        """The rows of several pieces, all of them kept."""
        assert self._map is not None
        parts = [self._map[entry.begin : entry.begin + self._length(entry)] for entry in entries]
        return Rows(torch.from_numpy(np.concatenate(parts)), torch.tensor([len(part) for part in parts]), self._scale)

    def _length(self, entry: Entry) -> int:
        return 1 if self.kind == "pooled" else entry.frames


def encode(
    subject: Subject, pieces: Sequence[Piece], kind: Kind, seconds_per_batch: float = 30.0
) -> Iterator[tuple[Piece, Encoded | Entry]]:
    """Every piece with what the model makes of it, or with the reason why it cannot be read; similar lengths after one another."""
    order = sorted(pieces, key=lambda piece: piece.seconds or piece.recording.duration or 0.0)
    batch: list[tuple[Piece, Tensor]] = []
    for piece, wave in decoded(order):
        if isinstance(wave, str):
            yield piece, Entry(-1, 0, 0.0, wave)
            continue
        longest = max(len(wave), max((len(w) for _, w in batch), default=0))
        if batch and longest * (len(batch) + 1) > seconds_per_batch * SAMPLE_RATE:
            yield from _states(subject, batch, kind)
            batch = []
        batch.append((piece, wave))
    if batch:
        yield from _states(subject, batch, kind)


def _states(subject: Subject, batch: list[tuple[Piece, Tensor]], kind: Kind) -> Iterator[tuple[Piece, Encoded]]:
    waves = [wave for _, wave in batch]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    same = len(set(lengths.tolist())) == 1
    states, frames = subject.states(Batch(padded, None if same else lengths))
    for (piece, wave), rows, count in zip(batch, states, frames.tolist(), strict=True):
        own = rows[: max(1, count)].float()
        yield piece, Encoded(own.mean(0, keepdim=True) if kind == "pooled" else own, len(own), len(wave) / SAMPLE_RATE)


def decoded(pieces: Sequence[Piece], ahead: int = 64) -> Iterator[tuple[Piece, Tensor | str]]:
    """Audio in the order of `pieces`, decoded by threads a little ahead."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[tuple[Piece, Future[Tensor | str]]] = deque()
        todo = iter(pieces)
        while True:
            for piece in itertools.islice(todo, ahead - len(waiting)):
                waiting.append((piece, pool.submit(_wave, piece)))
            if not waiting:
                return
            piece, future = waiting.popleft()
            yield piece, future.result()


def _wave(piece: Piece) -> Tensor | str:
    try:
        return piece.read()
    except BadAudio as problem:
        return problem.reason


def _measure(subject: Subject, piece: Piece) -> Entry:
    """An entry of nothing kept; the audio is read once, to know that it can be."""
    wave = _wave(piece)
    if isinstance(wave, str):
        return Entry(-1, 0, 0.0, wave)
    seconds = len(wave) / SAMPLE_RATE
    return Entry(-1, max(1, int(seconds * subject.frame_rate)), seconds)


def _select(
    subject: Subject, pieces: Sequence[Piece], keys: Sequence[str], kind: Kind, index: Mapping[str, Entry], bank: Bank | None
) -> FeatureSet:
    entries = [index[key] for key in keys]
    usable = [i for i, entry in enumerate(entries) if not entry.reason]
    return FeatureSet(
        subject=subject,
        kind=kind,
        pieces=[pieces[i] for i in usable],
        usable=usable,
        skipped=[
            Skipped(path=piece.recording.path, reason=entry.reason)
            for piece, entry in zip(pieces, entries, strict=True)
            if entry.reason
        ],
        frames=[entries[i].frames for i in usable],
        hours=sum(entry.seconds for entry in entries) / 3600,
        entries=[entries[i] for i in usable],
        bank=bank,
    )
