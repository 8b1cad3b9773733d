"""Features of a frozen model, computed once for each recording and kept on disk, so that ten trials do not cost ten encodings.

There is one `Bank` per model and kind; tasks that share recordings share its rows. At the limit of the store, banks of other models are
deleted, those first that were not used for longest. What still does not fit is computed at each use.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sottovoce.core.cache import cache_home
from sottovoce.core.plain_warning import PlainWarning
from sottovoce.data import Skipped
from sottovoce.evaluation.features.bank import INDEX, ROWS, Bank, Rows
from sottovoce.evaluation.features.generated import MadeAudio
from sottovoce.evaluation.features.pieces import (
    BATCH_SECONDS,
    Encoded,
    IndexEntry,
    Kind,
    Piece,
    decoded,
    encode,
    entry_of,
    readable,
)
from sottovoce.evaluation.subjects.subject import Subject

Progress = Callable[[int, int], None]

FORMAT = 1
ON_CPU, ON_GPU = 8.0, 240.0  # seconds of audio encoded at once in training: fits a CPU's cache; keeps a GPU busy
GENERATED_SHARE = 0.1  # of the limit, in addition to it, for generated audio
ITEMS_IN_MEMORY = 8  # items in memory at a time in a pass over a set

_warned: dict[Path, float] = {}  # size of a bank, in bytes, in this process's last warning


@dataclass(frozen=True)
class FeatureSet:
    """Features of N readable pieces. usable: (N,) index of each item in the requested pieces; skipped: the other pieces.

    kind "frames": an item is (T, L, D); "pooled": (1, L, D), its mean over time. frames: (N,) frames per item.
    seconds: computing time; hours: of audio.
    """

    subject: Subject
    kind: Kind
    pieces: list[Piece]
    usable: list[int]
    skipped: list[Skipped]
    frames: list[int]
    hours: float
    entries: list[IndexEntry]
    bank: Bank | None = None
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.usable)

    def item(self, i: int) -> Tensor:
        """(T, L, D) float32."""
        return self.states([i])[0]

    def states(self, items: Sequence[int]) -> list[Tensor]:
        """(T, L, D) float32 of each of `items`. Those that are not kept are computed in batches of similar length."""
        rest = [self.pieces[i] for i in items if not self._kept(i)]
        computed: dict[str, Tensor] = {}
        seconds = ON_CPU if self.subject.device.type == "cpu" else ON_GPU
        for piece, encoded in encode(self.subject, rest, self.kind, seconds) if rest else ():
            if not isinstance(encoded, Encoded):  # the file has changed since
                raise ValueError(
                    f"{piece.recording.path} cannot be used: {encoded.reason}; leave it out, or keep features (--cache-gb)"
                )
            computed[piece.key] = encoded.states.float().cpu()
        return [self._rows(i) if self._kept(i) else computed[self.pieces[i].key] for i in items]

    def each(self, items: Sequence[int]) -> Iterator[Tensor]:
        """`states` one by one, with few in memory."""
        for begin in range(0, len(items), ITEMS_IN_MEMORY):
            yield from self.states(items[begin : begin + ITEMS_IN_MEMORY])

    def batch(self, items: Sequence[int]) -> Rows:
        """Features of `items`, in half precision if they are kept."""
        if self._table is not None:
            return Rows(self._table[items], torch.ones(len(items), dtype=torch.long), torch.ones(self.subject.layers))
        if self.bank is not None and all(map(self._kept, items)):
            return self.bank.batch([self.entries[i] for i in items])
        states = self.states(items)
        return Rows(torch.cat(states), torch.tensor([len(rows) for rows in states]), torch.ones(self.subject.layers))

    def _kept(self, i: int) -> bool:
        return self.bank is not None and self.entries[i].begin >= 0

    def _rows(self, i: int) -> Tensor:
        assert self.bank is not None
        return self.bank.rows(self.entries[i])

    @cached_property
    def _table(self) -> Tensor | None:
        """(N, L, D): all features of a pooled set, which is small enough for memory."""
        if self.kind != "pooled" or not len(self) or not all(map(self._kept, range(len(self)))):
            return None
        return torch.cat(self.states(range(len(self))))


def moments(sets: Sequence[FeatureSet], most: int) -> tuple[Tensor, Tensor]:
    """(L, D) mean and standard deviation over the rows of about `most` items spread over the sets, float64 on the CPU."""
    count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
    step = max(1, sum(len(each) for each in sets) // most)
    for features in sets:
        for states in features.each(range(0, len(features), step)):
            rows = states.double()
            count, total, square = count + len(rows), total + rows.sum(0), square + rows.square().sum(0)
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=0).sqrt()


class FeatureStore:
    """Banks of features in a folder, of `limit_gb` in all (0: keeps nothing), and `MadeAudio` of a tenth of that.

    folder: by default ``features`` in `cache_home`.
    """

    def __init__(self, folder: Path | None = None, limit_gb: float = 10.0, seconds_per_batch: float = BATCH_SECONDS) -> None:
        self.folder = (folder or cache_home() / "features").expanduser()
        self.limit = limit_gb * 1e9
        self.seconds_per_batch = seconds_per_batch
        self.generated = MadeAudio(self.folder / "made", GENERATED_SHARE * self.limit)

    def foresee(self, subject: Subject, pieces: Sequence[Piece], kind: Kind, say: Callable[[str], None]) -> float:
        """Estimates the size of the bank with these pieces, in bytes, and warns if it is above the limit.

        Warns again only if the size has grown by a fifth. Returns 0 if the store keeps nothing.
        """
        if self.limit <= 0:
            return 0.0
        bank = self._bank(subject, kind)
        bank.read()
        wanted = {piece.key: piece for piece in pieces}
        lengths = [piece.length for key, piece in wanted.items() if not bank.kept(key)]
        known_lengths = [length for length in lengths if length is not None]
        mean = sum(known_lengths) / len(known_lengths) if known_lengths else 0.0
        frames = [1.0 if kind == "pooled" else (mean if length is None else length) * subject.frame_rate for length in lengths]
        total = bank.size + sum(frames) * subject.layers * subject.dim * 2
        if total > self.limit and total > 1.2 * _warned.get(bank.folder, 0.0):
            _warned[bank.folder] = total
            say(
                f"the features of {subject.name} take about {total / 1e9:.3g} GB and --cache-gb is {self.limit / 1e9:.3g}: what does "
                f"not fit is computed again in every step, which is slow; --cache-gb {_rounded_up(1.05 * total / 1e9)} holds all of them"
            )
        return total

    def _bank(self, subject: Subject, kind: Kind) -> Bank:
        return Bank(self.folder / f"{subject.fingerprint}-{kind}-{FORMAT}", kind, subject)

    def get(self, subject: Subject, pieces: Sequence[Piece], kind: Kind, progress: Progress | None = None) -> FeatureSet:
        """Features of `pieces`; computes and keeps those that are missing. progress: called with (done, total)."""
        began = time.monotonic()
        keys = [piece.key for piece in pieces]
        wanted = dict(zip(keys, pieces, strict=True))
        if self.limit <= 0:
            index: dict[str, IndexEntry] = {}
            for piece, encoded in encode(subject, list(wanted.values()), kind, self.seconds_per_batch):
                index[piece.key] = entry_of(encoded)
                if progress is not None:
                    progress(len(index), len(wanted))
            return replace(_select(subject, pieces, keys, kind, index, None), seconds=time.monotonic() - began)
        bank = self._bank(subject, kind)
        bank.read()
        unreadable = {key for key in wanted if key in bank.index and bank.index[key].reason}
        readable_again = {key for key in unreadable if readable(wanted[key])}  # e.g. a disk is mounted again
        try:
            if self._has_work(bank, subject, wanted, readable_again):  # no lock is needed otherwise
                self._fill(bank, subject, wanted, readable_again, progress)
            bank.open()
        except OSError as problem:  # e.g. the disk is full
            warnings.warn(
                f"features cannot be kept in {bank.folder} ({problem.strerror or problem}); they are computed again whenever they are "
                "asked for, which is slow; make room there, or name another folder with --cache",
                PlainWarning,
                stacklevel=2,
            )
            self.limit = 0.0
            return self.get(subject, pieces, kind, progress)
        features = _select(subject, pieces, keys, kind, bank.index, bank)
        return replace(features, seconds=time.monotonic() - began)

    def _has_work(self, bank: Bank, subject: Subject, wanted: Mapping[str, Piece], readable_again: set[str]) -> bool:
        """Whether pieces are missing, or fit now after they did not before."""
        if readable_again or any(key not in bank.index for key in wanted):
            return True
        frames = [bank.rows_of(bank.index[key]) for key in wanted if not bank.kept(key) and not bank.index[key].reason]
        return bool(frames) and self._room(bank, min(frames) * subject.layers * subject.dim * 2)

    def _fill(
        self, bank: Bank, subject: Subject, wanted: Mapping[str, Piece], readable_again: set[str], progress: Progress | None
    ) -> None:
        """Computes the missing features until the bank is full; for the other pieces, adds entries without rows."""
        with bank.writing():
            for key in readable_again:
                if not bank.kept(key):
                    bank.index.pop(key, None)
            todo = {
                key: piece
                for key, piece in wanted.items()
                if key not in bank.index or not (bank.kept(key) or bank.index[key].reason)
            }
            count = len(todo)

            def add(piece: Piece, encoded: Encoded | IndexEntry) -> None:
                bank.add(piece, encoded)
                del todo[piece.key]
                if progress is not None:
                    progress(count - len(todo), count)

            unknown, full = {key for key in todo if key not in bank.index}, False
            for piece, encoded in encode(subject, list(todo.values()), bank.kind, self.seconds_per_batch, self.generated.read):
                full = full or (isinstance(encoded, Encoded) and not self._room(bank, encoded.states.numel() * 2))
                if full and not unknown:
                    break
                # what is not kept is computed once all the same: a recording that cannot be used is known before a head is trained
                add(piece, entry_of(encoded) if full else encoded)
                unknown.discard(piece.key)

    def _room(self, bank: Bank, wanted: int) -> bool:
        """Whether `wanted` more bytes fit. Deletes other banks if needed, those first that were not used for longest."""
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
            except Timeout:  # another process writes it, and may wait for our lock
                continue
            del sizes[path]
        return bank.size + wanted + sum(sizes.values()) <= self.limit


def _select(
    subject: Subject, pieces: Sequence[Piece], keys: Sequence[str], kind: Kind, index: Mapping[str, IndexEntry], bank: Bank | None
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


def _rounded_up(gigabytes: float) -> str:
    """Rounded up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(gigabytes)) - 1)
    return f"{math.ceil(gigabytes / step) * step:.10g}"


__all__ = ["INDEX", "ROWS", "FeatureSet", "FeatureStore", "Kind", "Piece", "Rows", "decoded", "encode", "moments"]
