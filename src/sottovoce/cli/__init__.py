"""The command line: parses arguments, calls the Python API, prints errors in one line.

Each file of this folder is one verb: a function under `base.app.command()`. Its docstring is its help. It imports heavy modules only
when it is called, so that `--help` is fast. Files are found automatically.
"""

from __future__ import annotations

import importlib
import pkgutil

from sottovoce.cli.base import app, guarded

__all__ = ["app", "main"]

# The help lists the verbs in this order; others follow by name.
_ORDER = ["compress", "pretrain", "evaluate", "compare", "report", "inspect", "merge", "bench", "export", "listing", "demo"]


def _import_verbs() -> None:
    """Imports every file of this folder; each adds its verb to the app."""
    files = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")
    for name in sorted(files, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        importlib.import_module(f"{__name__}.{name}")


def main() -> None:
    """The `sottovoce` command."""
    guarded(app)


_import_verbs()
