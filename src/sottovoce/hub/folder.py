"""Folders of models: whether two overlap, and several files of one replaced together.

A kill at any moment leaves the old set of files or the new one, never half of each.

New files are written in a folder beside the old ones. Renaming that folder is the moment at which the new set counts; the files
are then moved into place one by one, and whoever comes next (`finish`) completes that if a kill came between.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_WRITING, _READY = ".sottovoce-writing", ".sottovoce-ready"
_OUTDATED = ".sottovoce-outdated"  # among new files: the names of those that go when the new ones come
WEIGHTS, ABOUT, CHECK = "model.safetensors", "model.json", "model.check.json"
# what `sottovoce export` writes beside the weights
EXPORTS = ("model.onnx", "model.pte", "encoder.onnx", "decoder.onnx", "tokens.json", ABOUT, CHECK)


def overlap(one: Path, other: Path) -> bool:
    """Whether two folders are the same, or one of them, or a file in it, lies in the other. Links are followed."""
    one, other = one.expanduser().resolve(), other.expanduser().resolve()
    return any(_inside(a, b) or any(_inside(path.resolve(), b) for path in _files(a)) for a, b in ((one, other), (other, one)))


def is_text(path: Path) -> bool:
    """Whether its name is UTF-8. Names are bytes, and those of some old archives are not."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def refuse_name(folder: Path) -> None:
    """ValueError for a folder in which libraries (safetensors, onnxruntime) cannot write, because its name is not UTF-8."""
    if not is_text(folder):
        name = os.fsencode(folder).decode(errors="backslashreplace")
        raise ValueError(f"the name of {name} is not UTF-8, so model files cannot be written there; choose another --out")


def _inside(path: Path, folder: Path) -> bool:
    """Whether `path`, with its links resolved, is `folder` or lies in it, by whatever name."""
    return folder.exists() and any(step.exists() and step.samefile(folder) for step in (path, *path.parents))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into; its files replace those in `folder` when the block ends without an error."""
    refuse_name(folder)
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


def retire_exports(folder: Path, new: Path) -> list[str]:
    """Makes the files that were exported from the weights in `folder` go when those in `new` replace them. Returns their names; none where
    the weights are the same, or where sottovoce did not export the files. `new` is what `replacing` gave, with the weights in it."""
    try:
        ours = "sottovoce" in json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return []
    before = folder / WEIGHTS
    if not ours or (before.is_file() and filecmp.cmp(before, new / WEIGHTS, shallow=False)):
        return []
    gone = [name for name in EXPORTS if (folder / name).is_file()]
    (new / _OUTDATED).write_text("\n".join(gone), encoding="utf-8")
    return gone


def finish(folder: Path) -> None:
    """Completes a replacement that was cut off after it counted. Does nothing otherwise."""
    ready = folder / _READY
    if not ready.is_dir():
        return
    # someone else may be finishing too
    with contextlib.suppress(FileNotFoundError):
        if (ready / _OUTDATED).is_file():
            for name in (ready / _OUTDATED).read_text(encoding="utf-8").splitlines():
                (folder / name).unlink(missing_ok=True)
            (ready / _OUTDATED).unlink(missing_ok=True)
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
