"""An append-only file of features, and an index of the rows of each piece of audio."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from sottovoce.core.ledger import write_atomically
from sottovoce.evaluation.features.pieces import Encoded, IndexEntry, Kind, Piece
from sottovoce.evaluation.subjects.subject import Subject

LARGEST = 60_000.0  # near the largest half-precision number
ROWS, INDEX = "rows.f16", "index.json"


class Rows(NamedTuple):
    """Features of B items, concatenated. values: (N, L, D), half precision or float32; unit: (L,), the features are values times unit;
    lengths: (B,), rows per item, N in all."""

    values: Tensor
    lengths: Tensor
    unit: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(*(part.to(device) for part in self))


class Bank:
    """A file of half-precision rows (L, D) and its index. One process writes at a time; rows never change.

    Each layer has a scale, a power of two chosen from the first rows, that keeps large activations within half precision.
    """

    def __init__(self, folder: Path, kind: Kind, subject: Subject) -> None:
        self.folder, self.kind, self.layers, self.dim = folder, kind, subject.layers, subject.dim
        self.index: dict[str, IndexEntry] = {}
        self._scale = torch.ones(0)
        self._end = 0
        self._file: BinaryIO | None = None
        self._map: NDArray[np.float16] | None = None

    @property
    def size(self) -> int:
        """Bytes of rows."""
        return self._end * self.layers * self.dim * 2

    def kept(self, key: str) -> bool:
        """Whether the bank has rows of the piece with this key."""
        return key in self.index and self.index[key].begin >= 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Opens the bank for `add` and locks it for other processes. Rows added before an error are kept."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            self.folder.mkdir(exist_ok=True)
            self.read()
            with open(self.folder / ROWS, "ab") as file:
                file.truncate(self.size)  # drop rows that are not in the index: a process died here
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
        """Reads the index from the disk."""
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            index = {"scale": [], "entries": {}}
        self._scale = torch.tensor(index["scale"])
        self.index = {key: IndexEntry(*entry) for key, entry in index["entries"].items()}
        self._end = max((e.begin + self.rows_of(e) for e in self.index.values() if e.begin >= 0), default=0)
        rows = self.folder / ROWS
        if not rows.exists() or rows.stat().st_size < self.size:  # damaged: begin again
            self.index, self._end, self._scale = {}, 0, torch.ones(0)

    def add(self, piece: Piece, encoded: Encoded | IndexEntry) -> None:
        if isinstance(encoded, IndexEntry):
            self.index[piece.key] = encoded
            return
        assert self._file is not None, "a bank takes rows only within writing()"
        if not len(self._scale):
            largest = encoded.states.abs().amax((0, 2)).clamp(min=1e-6)
            self._scale = torch.exp2(torch.ceil(torch.log2(largest / 256)).clamp(min=0)).cpu()
        rows = (encoded.states.cpu().float() / self._scale[:, None]).clamp(-LARGEST, LARGEST).half()
        self._file.write(rows.numpy().tobytes())
        self.index[piece.key] = IndexEntry(self._end, encoded.frames, encoded.seconds)
        self._end += len(rows)

    def open(self) -> None:
        """Opens the rows for reading. They stay readable even if another process deletes the bank."""
        if self._end:
            self._map = np.memmap(self.folder / ROWS, np.float16, "r", shape=(self._end, self.layers, self.dim))
            os.utime(self.folder / INDEX)  # the bank that was not used for longest is deleted first

    def rows(self, entry: IndexEntry) -> Tensor:
        """(T, L, D) float32 of a piece that the bank has."""
        rows = self.batch([entry])
        return rows.values.float() * rows.unit[:, None]

    def batch(self, entries: Sequence[IndexEntry]) -> Rows:
        """The rows of several pieces that the bank has."""
        assert self._map is not None
        parts = [self._map[entry.begin : entry.begin + self.rows_of(entry)] for entry in entries]
        return Rows(torch.from_numpy(np.concatenate(parts)), torch.tensor([len(part) for part in parts]), self._scale)

    def rows_of(self, entry: IndexEntry) -> int:
        """The number of rows of a piece."""
        return 1 if self.kind == "pooled" else entry.frames
