"""sottovoce makes large speech encoders small.

>>> import sottovoce
>>> student = sottovoce.load("students/hubert")     # or AutoModel.from_pretrained("students/hubert")

Importing it imports neither torch nor transformers: each public function is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sottovoce.hub import auto

if TYPE_CHECKING:
    from sottovoce.evaluation.suite.compare import compare as compare
    from sottovoce.evaluation.suite.run import evaluate as evaluate
    from sottovoce.exporting.api import export as export
    from sottovoce.hub.student import load as load
    from sottovoce.reporting.inspect import inspect as inspect
    from sottovoce.reporting.page import report as report
    from sottovoce.streaming.stream import stream as stream
    from sottovoce.timing.measure import bench as bench
    from sottovoce.train.api import compress as compress
    from sottovoce.train.api import pretrain as pretrain

    __version__: str

# public name -> module that holds it; no sub-package may have the name of a function
_PUBLIC = {
    "bench": "sottovoce.timing.measure",
    "compare": "sottovoce.evaluation.suite.compare",
    "compress": "sottovoce.train.api",
    "evaluate": "sottovoce.evaluation.suite.run",
    "export": "sottovoce.exporting.api",
    "inspect": "sottovoce.reporting.inspect",
    "load": "sottovoce.hub.student",
    "pretrain": "sottovoce.train.api",
    "report": "sottovoce.reporting.page",
    "stream": "sottovoce.streaming.stream",
}

__all__ = ["__version__", "bench", "compare", "compress", "evaluate", "export", "inspect", "load", "pretrain", "report", "stream"]

auto.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    else:
        raise AttributeError(f"module 'sottovoce' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("sottovoce")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"
