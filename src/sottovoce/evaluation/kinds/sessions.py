"""Recording sessions, as file names tell them (LibriSpeech: ``^[^-]*-[^-]*``)."""

from __future__ import annotations

import re
from pathlib import Path

from sottovoce.data import Recording


def check_session(pattern: str) -> None:
    """ValueError when it is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"session '{pattern}' is not a regular expression: {problem}") from None


def session_of(recording: Recording, pattern: str) -> str | None:
    """What the pattern reads off the file's name; None where it finds nothing."""
    match = re.search(pattern, Path(recording.id).stem)
    return match.group() if match else None
