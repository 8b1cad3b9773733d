"""Configuration: dataclass defaults < YAML (with ``include``) < ``key=value``.

A configuration is a tree of frozen dataclasses. `build` makes one from plain mappings, checks every key and type, and reports all
mistakes at once. A field whose metadata names a registry holds components: ``components(OBJECTIVES)`` for a mapping from a registered
name to that class's nested ``Config``, ``component(STUDENTS, "copy")`` for a single one written as ``{name: ..., field: ...}``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from sottovoce.core.registry import Registry, suggestion

C = TypeVar("C")


class ConfigError(ValueError):
    """A mistake in a recipe or an override. The message lists every mistake found, one a line."""


def components(registry: Registry) -> Any:
    return dataclasses.field(default_factory=dict, metadata={"registry": registry})


def component(registry: Registry, default: str) -> Any:
    return dataclasses.field(default_factory=lambda: {"name": default}, metadata={"registry": registry, "single": True})


@dataclasses.dataclass(frozen=True)
class Given:
    """A value from the command line: what YAML makes of it, and the text itself, for fields that are text (``no`` is a language)."""

    value: Any
    text: str


@dataclasses.dataclass(frozen=True)
class Component:
    """A registered class by name, and its configuration."""

    name: str
    config: Any


def build(cls: type[C], data: Mapping[str, Any], where: str = "") -> C:
    """`cls` from plain data. ConfigError names every unknown key, wrong type and missing value."""
    errors: list[str] = []
    made = _build(cls, data, where, errors)
    if errors:
        raise ConfigError("\n".join(errors))
    return typing.cast(C, made)


def _build(cls: Any, data: Any, where: str, errors: list[str]) -> Any:
    data = _value(data)
    if not isinstance(data, Mapping):
        errors.append(f"{where or 'the recipe'}: expected a mapping, got {data!r}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in fields:
            errors.append(f"unknown key '{_join(where, key)}'{suggestion(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        path = _join(where, name)
        registry = spec.metadata.get("registry")
        if name in data:
            value = data[name]
        elif registry is not None and spec.default_factory is not dataclasses.MISSING:
            value = spec.default_factory()
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            errors.append(f"'{path}' has no value")
            continue
        else:
            continue
        if registry is not None:
            default = spec.default_factory() if spec.metadata.get("single") and callable(spec.default_factory) else None
            values[name] = _build_components(registry, value, default, path, errors)
        else:
            values[name] = _convert(hints[name], value, path, errors)
    if errors:
        return None
    try:
        return cls(**values)
    except ValueError as problem:  # a check in __post_init__
        errors.append(f"{where + ': ' if where else ''}{problem}")
        return None


def _build_components(registry: Registry, value: Any, default: Mapping[str, Any] | None, path: str, errors: list[str]) -> Any:
    """`default`: of a single component; ``None`` for a mapping of many."""
    value = _value(value)
    if default is not None and isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        errors.append(f"'{path}': expected a mapping, got {value!r}")
        return None
    if default is not None:
        fields = {key: item for key, item in value.items() if key != "name"}
        return _component(registry, str(_value(value.get("name", default["name"]))), fields, path, errors)
    made = {}
    for name, fields in value.items():
        if _value(fields) is not False:  # `name: false` takes away what an included file added
            made[name] = _component(registry, str(name), _value(fields) or {}, _join(path, str(name)), errors)
    return made


def _component(registry: Registry, name: str, fields: Any, path: str, errors: list[str]) -> Component | None:
    try:
        cls = registry.get(name)
    except ValueError as problem:
        errors.append(f"'{path}': {problem}")
        return None
    return Component(name, _build(cls.Config, fields, path, errors))


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Given) else value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, path: str, errors: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Given):
        value = value.text if hint is str else value.value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        for option in options:
            trial: list[str] = []
            made = _convert(option, value, path, trial)
            if not trial:
                return made
        errors.extend(trial if len(options) == 1 else [f"'{path}': {value!r} is none of {', '.join(map(_name, options))}"])
        return None
    if origin is Literal:
        if value not in args:
            errors.append(f"'{path}': {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _build(hint, value, path, errors)
    if origin in (tuple, list) or hint is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            errors.append(f"'{path}': expected a list, got {value!r}")
            return None
        inner = args[0] if args else Any
        return tuple(_convert(inner, item, f"{path}[{i}]", errors) for i, item in enumerate(value))
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            errors.append(f"'{path}': expected a mapping, got {value!r}")
            return None
        inner = args[1] if args else Any
        if dataclasses.is_dataclass(inner):  # `name: false` takes away what an included file added
            value = {key: item for key, item in value.items() if _value(item) is not False}
        return {str(key): _convert(inner, item, _join(path, str(key)), errors) for key, item in value.items()}
    return _scalar(hint, value, path, errors)


def _scalar(hint: Any, value: Any, path: str, errors: list[str]) -> Any:
    if hint is Any:
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, (str, Path, int, float)) and not isinstance(value, bool):
        return str(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is int and not isinstance(value, bool):
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    if hint is float and not isinstance(value, bool):
        try:  # YAML reads 2e-4 as text
            return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
        except (TypeError, ValueError, ArithmeticError):
            pass
    errors.append(f"'{path}': expected {_name(hint)}, got {value!r}")
    return None


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def plain(value: Any) -> Any:
    """The reverse of `build`: nested mappings, lists and scalars, ready for YAML or JSON."""
    if isinstance(value, Component):
        return {"name": value.name, **plain(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = {}
        for spec in dataclasses.fields(value):
            item = getattr(value, spec.name)
            if spec.metadata.get("registry") and not spec.metadata.get("single"):
                made[spec.name] = {name: plain(part.config) for name, part in item.items()}
            else:
                made[spec.name] = plain(item)
        return made
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def completed(cls: type, data: Mapping[str, Any]) -> Any:
    """Plain data of an earlier version with the defaults of all fields that came later; as it is where it cannot be read any more."""
    try:
        return plain(build(cls, data))
    except (ValueError, TypeError):
        return dict(data)


def read_yaml(path: Path, shipped: Path | None = None, within: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping; ``include: other.yaml`` (or a list), beside it or in the folder `shipped`, is read first and overlaid."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from None
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top")
    included = data.pop("include", None) or []
    if path in within:
        raise ConfigError(f"{path} includes itself, by way of {' and '.join(each.name for each in within)}")
    base: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        beside = path.parent / name
        base = overlay(
            base, read_yaml(beside if shipped is None or beside.exists() else shipped / name, shipped, (*within, path))
        )
    return overlay(base, data)


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`: mappings merge key by key, anything else replaces. ``key: x`` is short for ``key: {name: x}``.

    A mapping with another ``name`` is another component and takes nothing over.
    """
    made = dict(base)
    for key, value in top.items():
        old = made.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and _name_of(value) in (None, _name_of(old) or _name_of(value))
        ):
            made[key] = overlay(old, value)
        else:
            made[key] = value
    return made


def _name_of(component: Mapping[str, Any]) -> Any:
    return _value(component.get("name"))


def override(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`data` with ``a.b=value`` assignments laid over it; values are read as YAML."""
    given: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{text}' is not an override; write key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"cannot read the value of '{text}'") from None
        given = overlay(given, nested(key.strip(), parsed if isinstance(parsed, (dict, list)) else Given(parsed, value.strip())))
    return overlay(data, given)


def nested(key: str, value: Any) -> dict[str, Any]:
    """``nested("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
