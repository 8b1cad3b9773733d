"""The source files that a student carries, so that ``trust_remote_code=True`` loads it where sottovoce is not installed."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_RELATIVE = re.compile(r"^from (\.+)([\w.]*) import", re.MULTILINE)


def _files() -> dict[str, str]:
    """Module of this package -> name of its flat copy."""
    parts = {
        f"encoder.{path.stem}": f"sottovoce_{path.stem}"
        for path in sorted((_ROOT / "encoder").glob("*.py"))
        if path.stem != "__init__"
    }
    return {
        "types": "sottovoce_types",
        **parts,
        "export.space": "sottovoce_space",
        "export.configuration": "configuration_sottovoce",
        "export.modeling": "modeling_sottovoce",
    }


def remote_code() -> dict[str, str]:
    """File name -> text. Between them they use only ``from .name import ...``, which is all that transformers follows."""
    from sottovoce import __version__

    flat = _files()

    def rewrite(module: str, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            dots, name = match.groups()
            target = ".".join([*module.split(".")[: -len(dots)], name])
            assert target in flat, f"{module} imports {target or name}, which does not travel with students"
            return f"from .{flat[target]} import"

        text = _RELATIVE.sub(replace, text)
        assert not re.search(r"^\s*(import|from) sottovoce\b", text, re.MULTILINE), f"{module} imports sottovoce by its name"
        return f"# A copy of {module.replace('.', '/')}.py from sottovoce {__version__}, Apache-2.0.\n{text}"

    return {
        f"{name}.py": rewrite(module, (_ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        for module, name in flat.items()
    }
