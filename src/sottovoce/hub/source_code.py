"""The source files that a student carries, so that ``trust_remote_code=True`` loads it where sottovoce is not installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_IMPORT = re.compile(r"^from sottovoce\.([\w.]+) import", re.MULTILINE)


def _copies() -> dict[str, str]:
    """Module of sottovoce -> name of its flat copy in the student's folder."""
    encoder = [path.stem for path in sorted((_ROOT / "encoder").glob("*.py")) if path.stem != "__init__"]
    return {
        "core.cache": "sottovoce_cache",
        "core.types": "sottovoce_types",
        **{f"encoder.{name}": f"sottovoce_{name}" for name in encoder},
        "families.student_config": "sottovoce_student_config",
        "hub.teacher_space": "sottovoce_teacher_space",
        "hub.configuration": "configuration_sottovoce",
        "hub.modeling": "modeling_sottovoce",
    }


def source_code(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """File name -> text. Among themselves the files import only by ``from .name import ...``: transformers follows nothing else.

    more: modules beside those of every student, such as ``hosts.rest``, and the names of their copies.
    """
    from sottovoce import __version__

    copies = {**_copies(), **(more or {})}

    def rewrite(module: str, text: str) -> str:
        def relative(match: re.Match[str]) -> str:
            target = match.group(1)
            assert target in copies, f"{module} imports {target}, which does not travel with students"
            return f"from .{copies[target]} import"

        text = _IMPORT.sub(relative, text)
        assert not re.search(r"^\s*(import|from) sottovoce\b", text, re.MULTILINE), f"{module} imports sottovoce by its name"
        return f"# A copy of {module.replace('.', '/')}.py from sottovoce {__version__}, Apache-2.0.\n{text}"

    return {
        f"{name}.py": rewrite(module, (_ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        for module, name in copies.items()
    }
