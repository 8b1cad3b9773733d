"""Random mutations of recipes and of overrides: one line, or a run of one update. A key that nobody reads never starts a run.

The number of inputs is fixed, and each is drawn from its own seed, which the name of a failing test gives.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sottovoce import recipes
from sottovoce.core.config import ConfigError
from sottovoce.train import api, loop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHIPPED = sorted(recipes.recipes())
SOURCES = {
    "usad": ["teachers.audio=demo"],
    "usad2": ["teachers.audio=demo", "teachers.music=demo"],
}  # that the recipe leaves open
FILES, OVERRIDES, KEYS, RUNS = 300, 400, 200, 24
TINY = [
    "data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32", "log_every=1",
]  # fmt: skip
ODD: list[Any] = [
    None, "", "nan", float("nan"), float("inf"), -1, 0, 1, 2, 0.5, 1e9, -0.0, 10**30, True, False, "x", "0", "1e-3", "1_000", "no", "é",
    "a\nb", "x" * 200, [], {}, [1, "a"], [[1]], {"name": "x"}, {"name": None}, {"a": {"b": {"c": 1}}}, [None], "{", "*x",
    "!!python/object:os",
]  # fmt: skip


def paths(tree: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of nested mappings, as ways from the root."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*at, key)
        yield from paths(value, (*at, key))


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def mutated(draw: random.Random) -> dict[str, Any]:
    """A shipped recipe with up to three values or keys changed, added or taken away."""
    tree: dict[str, Any] = yaml.safe_load((recipes.FOLDER / f"{draw.choice(SHIPPED)}.yaml").read_text())
    for _ in range(draw.randint(1, 3)):
        known = list(paths(tree))
        if not known:
            break
        path = draw.choice(known)
        kind = draw.randrange(5)
        if kind == 0:
            put(tree, path, draw.choice(ODD))
        elif kind == 1:
            put(
                tree,
                (*path[:-1], draw.choice(["lerning_rate", "", "é", "name", "kind", "include", path[-1] + "s"])),
                draw.choice(ODD),
            )
        elif kind == 2:
            parent = tree
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
        elif kind == 3:
            other = draw.choice(known)
            value: Any = tree
            for key in other:
                value = value[key]
            put(tree, path, copy.deepcopy(value))
        else:
            put(tree, path, [draw.choice(ODD) for _ in range(draw.randrange(4))])
    return tree


def plain(problem: ValueError) -> None:
    """A message says something and is no wall of text; a ConfigError may list several mistakes, one a line."""
    lines = str(problem).splitlines()
    assert lines
    assert all(line.strip() for line in lines)
    assert len(lines) == 1 or isinstance(problem, ConfigError)


@pytest.mark.parametrize("seed", range(FILES // 10))
def test_mutated_recipes_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    for part in range(10):
        draw = random.Random(10 * seed + part)
        path = tmp_path / f"{part}.yaml"
        text = yaml.safe_dump(mutated(draw), allow_unicode=True)
        if draw.random() < 0.2:
            at = draw.randrange(len(text))
            text = (
                text[:at]
                + draw.choice(["\t", "{", ": ", "- ", "&a ", "*a", "!!x ", "\x00", '"', "\n\n  x"])
                + text[at + draw.randrange(5) :]
            )
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            api.resolve(path, teacher="demo")
        except ValueError as problem:
            plain(problem)


def overrides(draw: random.Random, recipe: dict[str, Any]) -> list[str]:
    known = [".".join(path) for path in paths(recipe)]
    words = [
        "1",
        "0",
        "-1",
        "nan",
        "1e400",
        "true",
        "no",
        "",
        "[]",
        "{}",
        "[1",
        "{a: 1}",
        "x",
        "null",
        "é",
        "1,2",
        "'",
        "&x",
        "*x",
        "%",
    ]
    given = []
    for _ in range(draw.randint(1, 3)):
        key = draw.choice(known)
        if draw.random() < 0.3:
            at = draw.randrange(len(key))
            key = key[:at] + draw.choice(["", ".", "x", "é", " ", "=", ".."]) + key[at + 1 :]
        given.append(
            draw.choice(
                [f"{key}={draw.choice(words)}", f"{key}={draw.choice(words)}", key, f"={key}", f"{key}=={draw.choice(words)}"]
            )
        )
    return given


def full(name: str) -> dict[str, Any]:
    """All fields of a shipped recipe."""
    from sottovoce.core.config import plain as fields

    resolved = fields(api.resolve(name, SOURCES.get(name, ()), teacher="demo"))
    assert isinstance(resolved, dict)
    return resolved


@pytest.mark.parametrize("seed", range(OVERRIDES // 20))
def test_mutated_overrides_are_taken_or_refused(seed: int) -> None:
    name = SHIPPED[seed % len(SHIPPED)]
    recipe = full(name)
    for part in range(20):
        draw = random.Random(1000 + 20 * seed + part)
        try:
            api.resolve(
                name,
                overrides(draw, recipe),
                draw.choice([None, None, 1, 0, -3, 10**9]),
                teacher="demo",
                keep=draw.choice([None, 0.5]),
            )
        except ValueError as problem:
            plain(problem)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_key_that_is_not_known_is_refused_at_every_place(name: str) -> None:
    recipe = full(name)
    places = [(), *(path for path in paths(recipe) if isinstance(_at(recipe, path), dict))]
    open_mappings = {("stages",), ("objectives",), ("teachers",), ("data", "where")}
    tried = 0
    for path in itertools.islice(places, KEYS // len(SHIPPED) + 20):
        if path in open_mappings or any(path[: len(each)] == each and len(path) == len(each) for each in open_mappings):
            continue
        with pytest.raises(ValueError, match="lerning_rate"):
            api.resolve(name, [".".join((*path, "lerning_rate")) + "=1"], teacher="demo")
        tried += 1
    assert tried > 3


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@pytest.mark.parametrize("seed", range(RUNS))
def test_what_is_taken_runs_for_an_update_or_is_refused(
    seed: int, teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update is where what was wrong in a recipe would come out."""

    class Enough(Exception):
        pass

    plain_update = loop.update

    def one(*arguments: Any) -> float:
        plain_update(*arguments)
        raise Enough

    monkeypatch.setattr(loop, "update", one)
    draw = random.Random(5000 + seed)
    name = draw.choice(["dphubert", "distilhubert", "colld", "sotto-demo", "dphubert-demo"])
    recipe = full(name)
    numbers = [
        ".".join(path) for path in paths(recipe) if isinstance(_at(recipe, path), (int, float, bool)) and path[0] != "data"
    ]
    given = [f"{draw.choice(numbers)}={draw.choice(['0', '1', '2', '3', '-1', '0.5', 'true', '1e-9'])}" for _ in range(2)]
    shape = [part for part in ("student.dim=32", "student.depth=2") if part.split("=")[0] in {".".join(p) for p in paths(recipe)}]
    try:
        api.compress(
            teacher_folder, recipe=name, data=speech_folder, out=tmp_path / "s", device="cpu", long=True, larger=True,
            overrides=[*TINY, *shape, *given],
        )  # fmt: skip
    except Enough:
        pass
    except ValueError as problem:
        plain(problem)
