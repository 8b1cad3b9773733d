"""The command line: parses, calls, reports mistakes in one line. Nothing heavy is imported before it must.

One file is one verb: a function under `base.app.command()`, whose docstring is its help and which imports what it needs when it is
called. Every file of this folder is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from sottovoce.cli.base import app, guarded

__all__ = ["app", "main"]

# The help lists verbs in the order in which their files are imported: first these, as a user comes to need them, then the others by name.
_ORDER = ["compress", "pretrain", "evaluate", "compare", "report", "inspect", "bench", "export", "listing", "demo"]


def _import_verbs() -> None:
    """Imports the files of this folder, each of which adds its verb to the app."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")
    for name in sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        importlib.import_module(f"{__name__}.{name}")


def main() -> None:
    """The `sottovoce` command."""
    guarded(app)


_import_verbs()
