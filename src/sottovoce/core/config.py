"""Configuration: dataclass defaults < YAML (with ``include``) < ``key=value``.

A configuration is a tree of frozen dataclasses. `build` makes one from plain mappings, checks every key and type, and reports all
mistakes at once. A `Component` is a registered class by name, with its nested ``Config``. A field ``component(StudentChoice, "copy")``
holds one, written as ``{name: ..., field: ...}``; ``components(ObjectiveChoice)`` holds a mapping from labels to such, where the name
defaults to the label. A dataclass with a static method ``expand`` allows short forms: it gets plain data and returns the full form.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from sottovoce.core.registry import Registry, suggestion

C = TypeVar("C")


class ConfigError(ValueError):
    """Mistakes in a recipe or an override. The message lists them, one per line."""


@dataclasses.dataclass(frozen=True)
class Given:
    """A value from the command line: as YAML reads it, and as text, for text fields (``no`` is a language, too)."""

    value: Any
    text: str


@dataclasses.dataclass(frozen=True)
class Component:
    """A registered class by name, and its configuration. A subclass names the registry and may add fields beside the ``Config``'s.

    key: the key of the name in YAML. default: the name if none is given; "": the component's label.
    """

    name: str
    config: Any

    registry: typing.ClassVar[Registry]
    key: typing.ClassVar[str] = "name"
    default: typing.ClassVar[str] = ""

    @property
    def cls(self) -> Any:
        """The registered class."""
        return self.registry.get(self.name)

    def build(self, *arguments: Any) -> Any:
        """A new instance of the class, from its configuration and `arguments`."""
        return self.cls(self.config, *arguments)

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the fields that a subclass adds."""
        return [spec.name for spec in dataclasses.fields(cls) if spec.name not in ("name", "config")]


def components(of: type[Component]) -> Any:
    """A field that holds a mapping from labels to components."""
    return dataclasses.field(default_factory=dict, metadata={"component": of})


def component(of: type[Component], default: str) -> Any:
    """A field that holds one component."""
    return dataclasses.field(default_factory=lambda: {"name": default}, metadata={"component": of, "single": True})


def build(cls: type[C], data: Mapping[str, Any], where: str = "") -> C:
    """`cls` from plain data. ConfigError names every unknown key, wrong type and missing value."""
    errors: list[str] = []
    config = _build(cls, data, where, errors)
    if errors:
        raise ConfigError("\n".join(errors))
    return typing.cast(C, config)


def _build(cls: Any, data: Any, where: str, errors: list[str], beside: Sequence[str] = ()) -> Any:
    """beside: other keys that are allowed there, for suggestions."""
    data = _value(data)
    if hasattr(cls, "expand"):
        data = cls.expand(data)
    if not isinstance(data, Mapping):
        errors.append(f"{where or 'the recipe'}: expected a mapping, got {data!r}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in fields:
            errors.append(f"unknown key '{_join(where, key)}'{suggestion(str(key), [*fields, *beside])}")
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        path = _join(where, name)
        of = spec.metadata.get("component")
        if name in data:
            value = data[name]
        elif of is not None and spec.default_factory is not dataclasses.MISSING:
            value = spec.default_factory()
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            errors.append(f"'{path}' has no value")
            continue
        else:
            continue
        if of is not None:
            default = spec.default_factory() if spec.metadata.get("single") and callable(spec.default_factory) else None
            values[name] = _build_components(of, value, default, path, errors)
        else:
            values[name] = _convert(hints[name], value, path, errors)
    if errors:
        return None
    try:
        return cls(**values)
    except ValueError as problem:  # a check in __post_init__
        errors.append(f"{where + ': ' if where else ''}{problem}")
        return None


def _build_components(of: type[Component], value: Any, default: Mapping[str, Any] | None, path: str, errors: list[str]) -> Any:
    """`default`: of a single component; ``None`` for a mapping of many."""
    value = _value(value)
    if default is not None and isinstance(value, str):
        value = {of.key: value}
    if not isinstance(value, Mapping):
        errors.append(f"'{path}': expected a mapping, got {value!r}")
        return None
    if default is not None:
        return _component(of, default["name"], value, path, errors)
    return {
        str(label): _component(of, of.default or str(label), _value(fields) or {}, _join(path, str(label)), errors)
        for label, fields in value.items()
        if _value(fields) is not False  # `label: false` takes away what an included file added
    }


def _component(of: type[Component], name: str, data: Any, path: str, errors: list[str]) -> Component | None:
    if not isinstance(data, Mapping):
        errors.append(f"'{path}': expected a mapping, got {data!r}")
        return None
    name = str(_value(data.get(of.key, name)))
    try:
        cls = of.registry.get(name)
    except ValueError as problem:
        errors.append(f"'{path}': {problem}")
        return None
    hints, extra = typing.get_type_hints(of), of.own_fields()
    values = {key: _convert(hints[key], data[key], _join(path, key), errors) for key in extra if key in data}
    rest = {key: item for key, item in data.items() if key not in (of.key, *extra)}
    config = _build(cls.Config, rest, path, errors, extra)
    if errors:
        return None
    try:
        return of(name, config, **values)
    except ValueError as problem:  # a check in __post_init__
        errors.append(f"'{path}': {problem}")
        return None


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
            converted = _convert(option, value, path, trial)
            if not trial:
                return converted
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
        own = {name: plain(getattr(value, name)) for name in value.own_fields()}
        return {value.key: value.name, **own, **plain(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spec.name: plain(getattr(value, spec.name)) for spec in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def completed(cls: type, data: Mapping[str, Any]) -> Any:
    """Adds the defaults of newer fields to plain data of an earlier version. Returns the data unchanged if it can no longer be read."""
    try:
        return plain(build(cls, data))
    except (ValueError, TypeError):
        return dict(data)


def read_yaml(
    path: Path,
    shipped: Path | None = None,
    within: tuple[Path, ...] = (),
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Reads a YAML mapping and lays it over the files of its ``include: other.yaml`` (or a list), which are looked up beside it, then in
    the folder `shipped`. convert: applied to each file's mapping first. ConfigError if a file cannot be read."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from None
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top")
    included = data.pop("include", None) or []
    if path in within:
        raise ConfigError(f"{path} includes itself, by way of {' and '.join(each.name for each in within)}")
    base: dict[str, Any] = {}
    if isinstance(included, str):
        included = [included]
    if not isinstance(included, list) or not all(isinstance(name, str) and "\0" not in name for name in included):
        raise ConfigError(f"{path}: include is the name of a recipe's file, or a list of such")
    for name in included:
        beside = path.parent / name
        other = beside if shipped is None or beside.exists() else shipped / name
        base = overlay(base, read_yaml(other, shipped, (*within, path), convert))
    return overlay(base, convert(data))


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lays `top` over `base`: mappings merge key by key, other values replace. ``key: x`` is short for ``key: {name: x}``.

    A mapping with another ``name`` is another component and replaces the old one.
    """
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and _name_of(value) in (None, _name_of(old) or _name_of(value))
        ):
            merged[key] = overlay(old, value)
        else:
            merged[key] = value
    return merged


def _name_of(component: Mapping[str, Any]) -> Any:
    return _value(component.get("name"))


def override(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`data` with ``a.b=value`` assignments laid over it."""
    return overlay(data, assigned(assignments))


def assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Parses ``a.b=value`` assignments into nested mappings. Values are read as YAML."""
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{text}' is not an override; write key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"cannot read the value of '{text}'") from None
        typed = parsed if isinstance(parsed, (dict, list)) else Given(parsed, value.strip())
        values = overlay(values, nested(key.strip(), typed))
    return values


def nested(key: str, value: Any) -> dict[str, Any]:
    """``nested("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
