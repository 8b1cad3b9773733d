"""Opens and reads files of a user's data: regular files only, with any name, within size limits.

A file name is bytes. Python represents bytes that are not UTF-8 as lone surrogates; `printable` makes text for ids, lists and messages.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

ROW_BYTES = 16 * 2**20  # largest row of a manifest; a recording of a day with its speaker turns needs a tenth of this
TOTAL_BYTES = 16 * 2**30  # largest manifest, uncompressed

MISSING, FOLDER, DENIED, NOT_REGULAR = (
    "missing",
    "a folder, not a file",
    "permission denied",
    "a pipe, device or socket, not a file",
)
TOO_LONG = f"a row longer than {ROW_BYTES // 2**20} MiB"
NOT_TEXT = "text that is not UTF-8"


class NotRegular(OSError):
    """A pipe, device or socket. Opening it may block or have side effects."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, unbuffered. OSError when it is missing or not regular; ValueError for an impossible name."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder")
    if not stat.S_ISREG(mode):
        raise NotRegular(f"{os.fspath(path)} is {NOT_REGULAR}")
    # do not block if the file has been replaced since the check
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return cast(BinaryIO, os.fdopen(os.open(path, flags), "rb", buffering=0))


def fault(path: str) -> str:
    """Reason why a path is not a regular file; empty when it is one. Does not open the file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as problem:
        return reason(problem)
    return "" if stat.S_ISREG(mode) else FOLDER if stat.S_ISDIR(mode) else NOT_REGULAR


def reason(problem: Exception) -> str:
    """A short phrase for an error of the system."""
    kinds = ((NotRegular, NOT_REGULAR), (FileNotFoundError, MISSING), (IsADirectoryError, FOLDER), (PermissionError, DENIED))
    return next((text for kind, text in kinds if isinstance(problem, kind)), f"unreadable ({type(problem).__name__})")


def printable(name: str) -> str:
    """The name as printable text. Bytes that are not UTF-8 and control characters become escapes such as ``\\xe9``."""
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x20 or 0x7F <= code < 0xA0 else f"\\u{code:04x}" if letter in "\u2028\u2029" else letter


def is_text(value: str) -> bool:
    """Whether the value can be encoded as UTF-8."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def rows(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield (line number from 1 on, line without its end) of a text file, plain or gzip. The line is None when longer than `ROW_BYTES`.

    Bytes that are not UTF-8 become lone surrogates, so that paths keep them. ValueError when the file cannot be read, is UTF-16, or has
    more than `TOTAL_BYTES`.
    """
    try:
        with open_regular(path) as raw, _unpacked(raw, path) as stream:
            total = number = 0
            while line := stream.readline(ROW_BYTES + 1):
                number += 1
                total += len(line)
                if number == 1:
                    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise ValueError(f"{path} is not text in UTF-8; save the manifest as UTF-8")
                    line = line.removeprefix(b"\xef\xbb\xbf")
                long = len(line) > ROW_BYTES
                while long and line and not line.endswith(b"\n"):  # skip the rest of the line
                    line = stream.readline(ROW_BYTES)
                    total += len(line)
                if total > TOTAL_BYTES:
                    raise ValueError(f"{path} has more than {TOTAL_BYTES // 2**30} GiB of text; split it into several manifests")
                yield number, None if long else line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
    except (OSError, EOFError, zlib.error) as problem:
        raise ValueError(f"cannot read {path}: {problem}") from None


def _unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    return cast(BinaryIO, os.fdopen(os.dup(raw.fileno()), "rb"))


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, plain or gzip. ValueError when it is not UTF-8 or a line is longer than `ROW_BYTES`."""
    lines = []
    for number, line in rows(path):
        if line is None:
            raise ValueError(f"line {number} of {path} is {TOO_LONG}")
        if not is_text(line):
            raise ValueError(f"{path} is not text in UTF-8 (line {number}); save it as UTF-8")
        lines.append(line)
    return lines
