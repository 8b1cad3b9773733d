"""Several files of a folder, replaced together: a kill at any moment leaves the old set or the new one, never half of each.

New files are written in a folder beside the old ones. Renaming that folder is the moment at which the new set counts; the files
are then moved into place one by one, and whoever comes next (`finish`) completes that if a kill came between.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_WRITING, _READY = ".sottovoce-writing", ".sottovoce-ready"


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into; its files replace those in `folder` when the block ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder)
    writing = folder / _WRITING
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        yield writing
        allowed = writing.stat().st_mode & 0o666  # safetensors writes files that nobody else may read
        for path in writing.iterdir():
            path.chmod(allowed)
        for path in [*writing.iterdir(), writing]:
            _flush(path)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    os.rename(writing, folder / _READY)
    _flush(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Completes a replacement that was cut off after it counted. Does nothing otherwise."""
    ready = folder / _READY
    if not ready.is_dir():
        return
    # someone else may be finishing too
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(ready.iterdir(), key=lambda path: path.name == "config.json"):  # without it, a folder is no model yet
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, folder / path.name)
        ready.rmdir()


def _flush(path: Path) -> None:
    """To the disk, not only to the system's cache; some file systems have no such thing for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            raise
    finally:
        os.close(handle)
