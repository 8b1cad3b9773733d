"""What holds for every verb: with --json stdout is one JSON, with --quiet nothing is printed, and a mistake is one line in both."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
import typer

from sottovoce import cli
from sottovoce.encoder import Encoder
from sottovoce.exporting import api as exporting
from sottovoce.hub.student import save_student
from sottovoce.timing import measure
from sottovoce.train import api, demonstration, track
from tests.conftest import tiny_shape
from tests.ledger_records import write_all
from tests.unit.test_evaluate_stage import words as words

SHORT = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0"]
TINY = [
    *("student.dim=32", "student.depth=1", "student.heads=2", "student.ffn_dim=32", "student.conv_dims=[8,8,8,8,8,8,8]"),
    *("student.position_groups=2", "objectives.masked_prediction.fit_frames=200", "objectives.masked_prediction.clusters=8"),
]
NEW = ["--out", "{new}"]
WORDS = ["--data", "{words}"]

# Verb: what is given to it, and what is a mistake.
VERBS: dict[str, tuple[list[str], list[str]]] = {
    "compress": (
        ["{teacher}", "--data", "{speech}", "--steps", "3", "--keep", "0.5", *NEW, *SHORT],
        ["no", "--data", "no", *NEW],
    ),
    "pretrain": (
        ["--recipe", "pretrain-tiny", "--data", "{speech}", "--steps", "2", *NEW, *SHORT, *TINY],
        ["--recipe", "no", "--data", "no", *NEW],
    ),
    "evaluate": (["{teacher}", "--task", "knn", *WORDS, *NEW], ["no", "--task", "knn", *WORDS]),
    "compare": (["{teacher}", "log-mel", "--task", "ks", *WORDS, "--seed", "1", *NEW], ["{teacher}", "--data", "no"]),
    "report": (["{results}", "--out", "{new}.html"], ["no"]),
    "inspect": (["{odd}"], ["no"]),
    "bench": (["{teacher}", "--seconds", "1", "--batch", "1", "--rounds", "1", *NEW], ["no"]),
    "export": (["{teacher}", "--data", "{speech}", "--seconds", "1", *NEW], ["no", *NEW]),
    "merge": (["{one}", "{other}", "--origin", "{one}", *NEW], ["no", *NEW]),
    "list": (["recipes"], []),
    "demo": (NEW, []),
}


def test_every_verb_is_here() -> None:
    assert set(VERBS) == set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.fixture
def filled(
    teacher_folder: Path, speech_folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The names in `VERBS`."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for path in teacher_folder.iterdir():
        (odd / path.name).write_bytes(path.read_bytes())
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "hiden_size": 3}))
    results = tmp_path / "results"
    write_all(results)
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        save_student(tmp_path / name, Encoder(tiny_shape()).reset_parameters(), normalize=False, teacher="demo")
    monkeypatch.setattr(track.console, "quiet", False)
    return {
        "one": str(tmp_path / "one"),
        "other": str(tmp_path / "other"),
"teacher": str(teacher_folder), "speech": str(speech_folder), "words": str(words), "new": str(tmp_path / "new"),
            "odd": str(odd), "results": str(results)}  # fmt: skip


def shorten_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes a minute."""
    result = api.Result(folder, True, "", {"cost": {"params": 1.0, "macs_per_s": 1.0}, "teacher": None})
    monkeypatch.setattr(demonstration.api, "compress", lambda *given, **named: track.say("training") or result)
    monkeypatch.setattr(demonstration, "models_of", lambda out: ({}, False))
    monkeypatch.setattr(demonstration, "compare", lambda models, norm: {"student": {"params": 1}})
    monkeypatch.setattr(demonstration.phrase_search, "search", lambda models, norm: {})
    monkeypatch.setattr(demonstration.phrase_search, "record", lambda found: {})
    monkeypatch.setattr(demonstration.api, "draw_report", lambda out: "")


def call(verb: str, arguments: list[str], names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status."""
    monkeypatch.setattr(sys, "argv", ["sottovoce", verb, *(text.format(**names) for text in arguments)])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            cli.main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_all_of_stdout_and_quiet_is_quiet(
    verb: str, filled: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, mistake = VERBS[verb]
    if verb == "demo":
        shorten_demo(Path(filled["results"]), monkeypatch)
    capfd.readouterr()
    assert call(verb, [*arguments, "--quiet"], filled, monkeypatch) == 0
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(track.console, "quiet", False)
    with monkeypatch.context() as patch:
        if verb == "export":  # once is enough: it takes seconds
            file = Path(filled["new"]) / "model.onnx"
            patch.setattr(exporting, "export", lambda *given, **named: named["say"]("exporting") or file)
        if verb == "bench":
            record = json.loads(Path(filled["new"]).read_text())
            patch.setattr(measure, "bench", lambda *given, **named: named["say"]("timing") or record)
        assert call(verb, [*arguments, "--json"], filled, monkeypatch) == 0
    said = capfd.readouterr()
    assert isinstance(json.loads(said.out), dict)
    if verb == "inspect":
        assert said.err.count("hiden_size") == 1
        assert json.loads(said.out)["unknown_keys"] == ["hiden_size"]
    for flag in ("--json", "--quiet") if mistake else ():
        assert call(verb, [*mistake, flag], filled, monkeypatch) == 2
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith("sottovoce: ")
