"""Every committed record is what the schema says, and what the schema says is what the page can read."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ProcessPoolExecutor
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sottovoce.core import ledger
from sottovoce.reporting.check import problems
from tests.ledger_records import MODELS, TASKS, evaluation, run_record

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(path for part in ("experiments", "checks", "benchmarks") for path in (ROOT / part).glob("**/records.jsonl"))
SCHEMA = json.loads((resources.files("sottovoce.reporting") / "schema" / "result.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def faults(record: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(record)]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["header"]["properties"]["schema"]["const"] == ledger.SCHEMA


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_line_of_the_committed_records_is_a_record(path: Path) -> None:
    for number, line in ledger.lines(path):
        record = json.loads(line)
        assert faults(record) == [], f"{path}:{number}"
        assert problems(record) == [], f"{path}:{number}"
        if record.get("kind") != "evaluation":
            assert record["name"], f"{path}:{number}"


def test_the_records_are_found() -> None:
    assert {path.parent.name for path in COMMITTED} >= {"benchmarks", "checks", "colld", "testbed"}


@pytest.mark.parametrize("entry", TASKS)
def test_evaluations_are_records(entry: str) -> None:
    for model in range(len(MODELS)):
        record = evaluation(entry, model)
        assert faults(record) == []
        assert problems(record) == []


def test_a_run_is_a_record() -> None:
    assert faults(run_record()) == []
    assert problems(run_record()) == []


def test_a_new_header_is_one() -> None:
    record = ledger.header("anything")
    assert faults(record) == []
    assert problems(record) == []


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    for name in ("records.jsonl", "one.json"):
        ledger.write(tmp_path / name, {"a": float("nan"), "b": [1.5, (float("inf"), "NaN")]})
        assert json.loads((tmp_path / name).read_text()) == {"a": None, "b": [1.5, [None, "NaN"]]}
        assert "Infinity" not in (tmp_path / name).read_text()


def append_some(path: Path, writer: int) -> None:
    for number in range(20):
        ledger.write(path, {"writer": writer, "number": number, "text": "line\u2028separator" * 500})


def test_several_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(append_some, [path] * 3, range(3)))
    records = ledger.read_all(path)
    assert len(records) == 60
    for writer in range(3):
        assert [each["number"] for each in records if each["writer"] == writer] == list(range(20))


def test_half_a_line_is_passed_over_and_the_next_record_is_not_harmed(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    ledger.write(path, {"number": 1})
    with path.open("a") as file:
        file.write('{"number": 2, "kil')
    ledger.write(path, {"number": 3})
    assert [each["number"] for each in ledger.read_all(path)] == [1, 3]


def test_older_records_may_lack_the_date_but_new_kinds_may_not() -> None:
    old = {key: value for key, value in ledger.header("parity").items() if key != "date"}
    assert faults(old) == problems(old) == []
    undated = {key: value for key, value in evaluation().items() if key != "date"}
    assert faults(undated)
    assert problems(undated)


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(record)
    *folders, last = path.split(".")
    at: Any = copied
    for key in folders:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 2),
        ("kind", ""),
        ("model.role", "pupil"),
        ("model.params", "many"),
        ("model.origin", []),
        ("task.config", None),
        ("data.fingerprint", 3),
        ("data.splits", {"train": 3}),
        ("measures", {}),
        ("measures.accuracy.value", "many"),
        ("measures.accuracy.low", "low"),
        ("measures.accuracy.better", "bigger"),
        ("trials.0.lr", 0),
        ("layer_weights", [["a"]]),
        ("date", None),
    ],
)
def test_a_broken_evaluation_is_refused_by_both(path: str, value: Any) -> None:
    record = changed(evaluation(), path, value)
    assert faults(record)
    assert problems(record)


@pytest.mark.parametrize(
    ("path", "value"), [("cost.params", None), ("stages", {}), ("budget.after", "half"), ("fidelity.layers.0.mapped", None)]
)
def test_a_broken_run_is_refused_by_both(path: str, value: Any) -> None:
    record = changed(run_record(), path, value)
    assert faults(record)
    assert problems(record)


@pytest.mark.parametrize("record", [[], 3, None, "text", {}, {"a": 1}, {"what": 3, "machine": {}}])
def test_what_is_no_record_is_refused_by_both(record: Any) -> None:
    assert faults(record)
    assert problems(record)
