"""The folder for what can be made again: demo speech, features, lengths of files, timings of kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """``$SOTTOVOCE_CACHE``, else ``sottovoce`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``."""
    own = os.environ.get("SOTTOVOCE_CACHE")
    home = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sottovoce"
    return home.expanduser()
