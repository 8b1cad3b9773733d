"""The verdict on a candidate follows from the records alone."""

from __future__ import annotations

from typing import Any

from experiments.universal import run


def measure(value: float, better: str = "higher") -> dict[str, Any]:
    return {"value": value, "low": value - 1, "high": value + 1, "better": better}


def evaluation(model: str, task: str, value: float, better: str) -> dict[str, Any]:
    measures = {"first": measure(value, better)}
    return {"kind": "evaluation", "model": {"name": model}, "task": {"entry": task}, "measures": measures}


def comparison(one: str, other: str, task: str, values: tuple[float, float], gain: tuple[float, float, float]) -> dict[str, Any]:
    better = dict(zip(("value", "low", "high"), gain, strict=True))
    models = {one: measure(values[0]), other: measure(values[1])}
    first = {"models": models, "better": better, "p": 0.01}
    return {"kind": "paired", "models": [{"name": one}, {"name": other}], "tasks": {task: {"measures": {"accuracy": first}}}}


RECORDS = [
    comparison("new", "log-mel", "ks-arabic", (88.0, 30.0), (58.0, 55.0, 61.0)),
    comparison("new", "demo", "ks-arabic", (88.0, 74.0), (14.0, 11.0, 17.0)),
    evaluation("whisper", "ks-arabic", 98.0, "higher"),
    comparison("new", "log-mel", "sid", (72.0, 71.0), (1.0, -2.0, 4.0)),
    *(evaluation(model, "asv-cosine", value, "lower") for model, value in (("new", 7.0), ("log-mel", 12.6), ("demo", 16.2))),
]


def test_aims_are_met_or_missed_as_the_records_say() -> None:
    aims = dict(run.aims(run.rows(RECORDS, "new", "whisper"), "new", "whisper"))
    assert aims == {
        "asv-cosine: better than log-mel outside the interval": True,
        "ks-arabic: better than log-mel outside the interval": True,
        "sid: better than log-mel outside the interval": False,
        "asv-cosine: 0.43 of demo's (at most half)": True,
        "ks-arabic: 58% of the distance from demo to whisper closed (at least half)": True,
    }
    worse = [evaluation("new", "asv-cosine", 12.0, "lower"), *RECORDS[-2:]]
    assert not any(met for _, met in run.aims(run.rows(worse, "new", "whisper"), "new", "whisper"))


def test_the_table_shows_every_model_and_what_is_left() -> None:
    lines = run.verdict(RECORDS, "new", "whisper")
    assert "| ks-arabic | 88 | 30 | 74 | 98 | +58 (55 to 61) | 0.02 |" in lines
    assert "| asv-cosine | 7 | 12.6 | 16.2 | – | – | – |" in lines
    assert lines[-1].startswith("- not measured yet: qbe, pr, ks-digits")
