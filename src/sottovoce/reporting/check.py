"""Whether a JSON is a record of the ledger that a page can be drawn from. The full description is ``schema/result.schema.json``.

These checks need no library: they cover what the page reads, so that a broken file is left out with a reason and never a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sottovoce.core.ledger import SCHEMA

COUNTS = ("recordings", "hours", "speakers")
ROLES = ("student", "teacher", "control")

Path = tuple[str, ...]  # keys, from the outside in


def problems(record: Any) -> list[str]:
    """What is wrong with `record`, one sentence each; nothing for a record of the ledger."""
    if not isinstance(record, dict):
        return ["is not a JSON object"]
    if "schema" not in record and "kind" not in record:  # written before there was a header
        if isinstance(record.get("what"), str) and ("machine" in record or "platform" in record):
            return []
        return ["is not a record of the ledger: it has neither 'schema' nor 'kind'"]
    if record.get("schema") != SCHEMA:
        return [f"has schema {record.get('schema')!r:.40}; this version of sottovoce reads schema {SCHEMA}"]
    kind = record.get("kind")
    if not isinstance(kind, str) or not kind:
        return ["does not say its kind"]
    found = [
        f"'{key}' is not {words}" for key, words in (("commit", "a text"), ("date", "a text")) if not _text(record.get(key), True)
    ]
    found += [f"'{'.'.join(path)}' {wrong}" for path, wrong in KINDS.get(kind, _nothing)(record)]
    return found


def _evaluation(record: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for path in (("model", "name"), ("model", "fingerprint"), ("task", "entry"), ("task", "name"), ("task", "title"), ("date",)):
        if not _text(_at(record, path)):
            yield path, "is not a text"
    if _at(record, ("model", "role")) not in ROLES:
        yield ("model", "role"), f"is none of {', '.join(ROLES)}"
    for path in (("model", "params"), ("model", "macs_per_s")):
        if not number(_at(record, path), True):
            yield path, "is not a number"
    for path in (("task", "config"), ("data",), ("data", "splits"), ("measures",), ("details",), ("cost",)):
        if not isinstance(_at(record, path), dict):
            yield path, "is not an object"
    origin = _at(record, ("model", "origin"))
    if not isinstance(origin, dict | None):
        yield ("model", "origin"), "is not an object"
    if not _text(_at(record, ("data", "fingerprint"))):
        yield ("data", "fingerprint"), "is not a text"
    yield from _measures(record.get("measures"))
    yield from _trials(record.get("trials"))
    splits = _mapping(_at(record, ("data", "splits")))
    if not all(isinstance(split, dict) and all(number(split.get(key), True) for key in COUNTS) for split in splits.values()):
        yield ("data", "splits"), f"has a split without {', '.join(COUNTS)} as numbers"
    for path in (("data", "source"), ("seeds",)):
        if not isinstance(_at(record, path), list | None):
            yield path, "is not a list"
    weights = record.get("layer_weights")
    if not _list_of(weights, lambda row: _list_of(row, number)):
        yield ("layer_weights",), "is not a list of lists of numbers"


TIMES = ("seconds", "median_ms", "p95_ms", "real_time_factor", "audio_s_per_s", "peak_mb", "batch")


def _bench(record: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    rows = record.get("rows")
    if not _list_of(rows, lambda row: isinstance(row, dict)) or not rows:
        yield ("rows",), "is not a list of objects"
        return
    for i, row in enumerate(rows):
        for key in ("model", "runtime"):
            if not _text(row.get(key)):
                yield ("rows", str(i), key), "is not a text"
        for key in TIMES:
            if not number(row.get(key)) or row[key] <= 0:
                yield ("rows", str(i), key), "is not a number above 0"
        gain = row.get("speedup")
        if gain is not None and not all(number(_mapping(gain).get(key)) for key in ("value", "low", "high")):
            yield ("rows", str(i), "speedup"), "is neither null nor value, low and high"
    if not isinstance(record.get("reference"), dict | None):
        yield ("reference",), "is not an object"


def _measures(measures: Any) -> Iterator[tuple[Path, str]]:
    if not isinstance(measures, dict):
        return
    if not measures:
        yield ("measures",), "is empty"
    for name, measure in measures.items():
        at = ("measures", str(name))
        if not isinstance(measure, dict):
            yield at, "is not an object"
            continue
        if not number(measure.get("value"), True):
            yield (*at, "value"), "is neither a number nor null"
        for key in ("low", "high"):
            if not number(measure.get(key), True):
                yield (*at, key), "is neither a number nor null"
        if measure.get("better") not in ("higher", "lower"):
            yield (*at, "better"), "is neither 'higher' nor 'lower'"
        if not isinstance(measure.get("unit"), str):
            yield (*at, "unit"), "is not a text"


def _trials(trials: Any) -> Iterator[tuple[Path, str]]:
    if not _list_of(trials, lambda trial: isinstance(trial, dict)):
        yield ("trials",), "is not a list of objects"
        return
    for i, trial in enumerate(trials):
        at = ("trials", str(i))
        rate = "l2" if "l2" in trial else "lr"
        if not number(trial.get(rate)) or trial[rate] <= 0:
            yield (*at, rate), "is not a number above 0"
        for key in ("dev", "best_step", "steps", "seed", "seconds"):
            if not number(trial.get(key), True):
                yield (*at, key), "is neither a number nor null"


def _run(record: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    path: Path
    for path in (("recipe",), ("data",), ("cost",)):
        if not isinstance(_at(record, path), dict):
            yield path, "is not an object"
    for path in (("cost", "params"), ("cost", "macs_per_s")):
        if not number(_at(record, path)):
            yield path, "is not a number"
    for path in (("teacher",), ("budget",), ("fidelity",), ("data", "where")):
        if not isinstance(_at(record, path), dict | None):
            yield path, "is not an object"
    for path in (("seconds",), ("held_out_seconds",), ("data", "hours"), ("teacher", "params"), ("teacher", "macs_per_s")):
        if not number(_at(record, path), True):
            yield path, "is not a number"
    stages = record.get("stages")
    if not _list_of(stages, lambda stage: isinstance(stage, dict) and _text(stage.get("stage")) and number(stage.get("seconds"))):
        yield ("stages",), "is not a list of stages with their names and seconds"
    if isinstance(record.get("budget"), dict):
        for key in ("target", "after"):
            if not number(record["budget"].get(key)):
                yield ("budget", key), "is not a number"
    if isinstance(record.get("fidelity"), dict):
        rows = record["fidelity"].get("layers")
        if not _list_of(rows, _likeness):
            yield ("fidelity", "layers"), "is not a list of layers with cosine, mapped and explained"
        if not _likeness({"layer": 0, **_mapping(record["fidelity"].get("mean"))}):
            yield ("fidelity", "mean"), "lacks cosine, mapped or explained"


def _likeness(row: Any) -> bool:
    return isinstance(row, dict) and all(
        number(row.get(key), or_none=key == "cosine") for key in ("layer", "cosine", "mapped", "explained")
    )


def _nothing(record: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    yield from ()


KINDS = {"evaluation": _evaluation, "run": _run, "bench": _bench}


def number(value: Any, or_none: bool = False) -> bool:
    """A finite number, or ``None`` where that is allowed."""
    if value is None:
        return or_none
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any, or_none: bool = False) -> bool:
    return or_none if value is None else isinstance(value, str) and bool(value)


def _list_of(value: Any, good: Any) -> bool:
    return isinstance(value, list) and all(good(item) for item in value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(record: Mapping[str, Any], path: Path) -> Any:
    value: Any = record
    for key in path:
        value = _mapping(value).get(key)
    return value
