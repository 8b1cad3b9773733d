"""The cache folder, for files that can be computed again: demo speech, features, lengths of recordings, timings of kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """``$SOTTOVOCE_CACHE``, else ``sottovoce`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``."""
    folder = os.environ.get("SOTTOVOCE_CACHE")
    home = Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sottovoce"
    return home.expanduser()
