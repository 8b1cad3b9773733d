"""Optional libraries: imported where they are used, with an error that says how to install them."""

from __future__ import annotations

import importlib
from typing import Any

PACKAGES = {"sklearn": "scikit-learn"}  # module -> package, where the names differ


class Missing(ValueError):
    """A library is not installed."""


def optional(name: str, extra: str, purpose: str) -> Any:
    """Imports the module `name` of the extra `extra`. Raises `Missing` if it is not installed; the message begins with `purpose`."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        module = (problem.name or name).partition(".")[0]
        package = PACKAGES.get(module, module)
        raise Missing(f'{purpose} needs {package}, which is not installed: pip install "sottovoce[{extra}]"') from None
