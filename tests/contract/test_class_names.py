"""Public class names are unique over the package: a name in a message, a docstring or a search means one class."""

import ast
from collections import defaultdict
from pathlib import Path

import sottovoce

SOURCE = Path(sottovoce.__file__).parent


def test_public_class_names_are_unique() -> None:
    files = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(path.relative_to(SOURCE).as_posix())
    repeated = {name: paths for name, paths in files.items() if len(paths) > 1}
    assert not repeated
