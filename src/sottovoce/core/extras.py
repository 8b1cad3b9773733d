"""Libraries that not everyone installs: imported where they are used, and missed with a sentence that says what to do."""

from __future__ import annotations

import importlib
from typing import Any

PACKAGES = {"sklearn": "scikit-learn"}  # where the package is not called as its module is


class Missing(ValueError):
    """Something is not installed."""


def optional(name: str, extra: str, purpose: str) -> Any:
    """The module `name`, which comes with the extra `extra`. `Missing`, which says what `purpose` needs, when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        module = (problem.name or name).partition(".")[0]
        package = PACKAGES.get(module, module)
        raise Missing(f'{purpose} needs {package}, which is not installed: pip install "sottovoce[{extra}]"') from None
