"""Audio that is made, not read (conversations mixed from recordings, recordings heard in a room), kept on disk for the next model."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sottovoce.evaluation.features.pieces import Piece

LEFT = 0.9  # of the limit, once room has been made


class MadeAudio:
    """A folder of samples, a file for each piece, about `limit` bytes in all; the longest unused go first.

    Only audio whose loader says what decides it (see `Recording.loader`) is kept; everything else is read from its own file.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        self._size: int | None = None  # as far as this process knows; several threads and processes may keep at once

    def read(self, piece: Piece) -> Tensor:
        """As `Piece.read`. A folder that cannot be written costs the next model time, and this one nothing."""
        if self.limit <= 0 or not hasattr(piece.recording.loader, "identity"):
            return piece.read()
        path = self.folder / f"{piece.key}.npy"
        try:
            wave = torch.from_numpy(np.load(path))
            os.utime(path)  # used now
        except (OSError, ValueError, EOFError):  # not there, or damaged
            wave = piece.read()
            with contextlib.suppress(OSError):
                self._keep(path, wave)
        return wave

    def _keep(self, path: Path, wave: Tensor) -> None:
        size = wave.numel() * wave.element_size()
        if size > LEFT * self.limit:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        used = self._size
        if used is None or used + size > self.limit:
            used = self._made_room(size)
        self._size = used + size
        part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")  # another process may keep the same
        with part.open("wb") as file:
            np.save(file, wave.numpy())
        part.replace(path)

    def _made_room(self, wanted: int) -> int:
        """Bytes that are kept, after deleting what must go for `wanted` more."""
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self.folder)]
        total = sum(size for _, size, _ in files)
        goal = total if total + wanted <= self.limit else LEFT * self.limit - wanted
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total
