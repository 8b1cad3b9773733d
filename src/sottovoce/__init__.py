"""sottovoce makes large self-supervised speech encoders small.

>>> import sottovoce
>>> student = sottovoce.load("students/hubert")     # or AutoModel.from_pretrained("students/hubert")

Importing it imports neither torch nor transformers; what is named here is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sottovoce.hub import auto

if TYPE_CHECKING:
    from sottovoce.evaluation.suite.run import evaluate as evaluate
    from sottovoce.export.api import export as export
    from sottovoce.hub.student import load as load
    from sottovoce.streaming.stream import stream as stream
    from sottovoce.train.api import compress as compress
    from sottovoce.train.api import pretrain as pretrain

    __version__: str

# public name -> where it is; sub-packages shadow names, so none of these may be called like one (`export` is, and can be called itself)
_LAZY = {
    "evaluate": "sottovoce.evaluation.suite.run:evaluate",
    "load": "sottovoce.hub.student:load",
    "compress": "sottovoce.train.api:compress",
    "pretrain": "sottovoce.train.api:pretrain",
    "stream": "sottovoce.streaming.stream:stream",
}

__all__ = ["__version__", "compress", "evaluate", "export", "load", "pretrain", "stream"]

auto.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _LAZY:
        module, _, attribute = _LAZY[name].partition(":")
        value = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module 'sottovoce' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("sottovoce")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"
