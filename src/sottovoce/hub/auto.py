"""Makes ``AutoModel.from_pretrained(student)`` work after ``import sottovoce``, without importing transformers for it.

transformers costs seconds, and most of what sottovoce does never needs its model classes. So registration waits until the module
whose table is to be extended has been imported: the configuration when AutoConfig appears, the model when AutoModel does. Not
both at once, because transformers imports AutoConfig in the middle of importing PreTrainedModel, which our model class needs.
Why a hook and no plain registration: docs/adr/0021-import-hook.md.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from sottovoce.hub.configuration import SottovoceConfig

    AutoConfig.register("sottovoce", SottovoceConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModel

    from sottovoce.hub.configuration import SottovoceConfig
    from sottovoce.hub.modeling import SottovoceModel

    AutoModel.register(SottovoceConfig, SottovoceModel, exist_ok=True)


CONFIGS, MODELS = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"
ACTIONS: dict[str, list[Callable[[], None]]] = {CONFIGS: [_register_config], MODELS: [_register_model]}  # after a module's import


ROOMS_ABOVE = ("sottovoce.hosts.auto",)  # modules that add to ACTIONS


class _Finder:
    """Finds the modules of `ACTIONS` as usual, and adds to their execution what is to happen right after it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        actions = ACTIONS.get(name, [])
        spec = PathFinder.find_spec(name, path, target) if actions else None
        if spec is None or spec.loader is None:
            return None
        # on the loader itself, not around it: module.__loader__ stays what inspect and pickle expect
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            for action in actions:
                _attempt(action)

        loader: Any = spec.loader
        loader.exec_module = exec_module
        return spec


def _attempt(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as problem:  # nobody's `import transformers` may fail on our account
        warnings.warn(
            f"sottovoce could not register its model with transformers ({type(problem).__name__}: {problem}); "
            "sottovoce.load works, and so does AutoModel.from_pretrained(..., trust_remote_code=True)",
            stacklevel=2,
        )


def install() -> None:
    """Registers now what can be registered now, and the rest when transformers gets that far. Harmless when repeated."""
    for name in ROOMS_ABOVE:
        importlib.import_module(name)
    for name, actions in ACTIONS.items():
        for action in actions if name in sys.modules else ():
            _attempt(action)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
