"""Recording sessions, read from file names by a pattern (LibriSpeech: ``^[^-]*-[^-]*``)."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce.data import Recording


def check_session(pattern: str) -> None:
    """ValueError when `pattern` is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"session '{pattern}' is not a regular expression: {problem}") from None


def session_of(recording: Recording, pattern: str) -> str | None:
    """The part of the file's name that the pattern matches; None without a match."""
    match = re.search(pattern, Path(recording.id).stem)
    return match.group() if match else None
