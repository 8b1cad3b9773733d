"""A disk cache of generated audio (mixed conversations, recordings with room acoustics), for the next model."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sottovoce.evaluation.features.pieces import Piece

KEPT_SHARE = 0.9  # of the limit: left by a cleanup


class MadeAudio:
    """A folder of samples, one file per piece, about `limit` bytes in all. Files that were not used for longest are deleted first.

    Only audio whose loader has an ``identity`` (see `Recording.loader`) is kept; other audio is read from its own file.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        self._size: int | None = None  # an estimate: other threads and processes write, too

    def read(self, piece: Piece) -> Tensor:
        """As `Piece.read`, from the cache if possible. Errors of the cache are ignored."""
        if self.limit <= 0 or not hasattr(piece.recording.loader, "identity"):
            return piece.read()
        path = self.folder / f"{piece.key}.npy"
        try:
            wave = torch.from_numpy(np.load(path))
            os.utime(path)  # marks it as used
        except (OSError, ValueError, EOFError):  # not there, or damaged
            wave = piece.read()
            with contextlib.suppress(OSError):
                self._keep(path, wave)
        return wave

    def _keep(self, path: Path, wave: Tensor) -> None:
        size = wave.numel() * wave.element_size()
        if size > KEPT_SHARE * self.limit:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        used = self._size
        if used is None or used + size > self.limit:
            used = self._make_room(size)
        self._size = used + size
        part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")  # another process may write the same
        with part.open("wb") as file:
            np.save(file, wave.numpy())
        part.replace(path)

    def _make_room(self, size_needed: int) -> int:
        """Deletes files until `size_needed` more bytes fit. Returns the bytes that are left."""
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self.folder)]
        total = sum(size for _, size, _ in files)
        goal = total if total + size_needed <= self.limit else KEPT_SHARE * self.limit - size_needed
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total
