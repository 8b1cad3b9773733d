"""From an encoder in memory to a model that loads anywhere, and back.

The verb has the package's name, so the package can be called: ``sottovoce.export("students/hubert", precision="int8")`` is `api.export`,
and ``sottovoce.hub.student`` is a module in it, whichever was imported first.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `sottovoce.export.api.export`."""
        from sottovoce.export.api import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
