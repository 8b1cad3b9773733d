"""What a long command shows: how far it is, and how long all that is left takes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sottovoce.cli import app, progress
from sottovoce.cli.progress import Display, ahead, duration
from sottovoce.core import ledger
from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.suite.audio import audio_digest
from sottovoce.evaluation.suite.config import limited
from sottovoce.evaluation.suite.progress import Course, State
from sottovoce.evaluation.suite.run import evaluate, scores


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestCourse:
    def test_the_time_left_is_of_the_whole_command(self) -> None:
        clock, states = Clock(), list[State]()
        course = Course(states.append, clock)
        course.begin([("a on ks", "ks"), ("b on ks", "ks"), ("c on asr", "asr")], 1)
        course.start(0)
        assert states[-1].left is None
        assert states[-1].text == "1 of 3, a on ks"
        clock.now = 10.0
        course.moved(0, "features", 100, 400)
        # 30 s of features, half as long again for the training, and as much for each of the other two
        assert states[-1].left == pytest.approx(30 + 20 + 2 * 60)
        assert states[-1].text == "1 of 3, a on ks: features 100 of 400 recordings"
        clock.now = 40.0
        course.moved(0, "features", 400, 400)
        clock.now = 50.0
        course.moved(0, "training", 2, 3)
        assert states[-1].left == pytest.approx(5 + 2 * 55)
        clock.now = 56.0
        course.end(0)
        course.start(1)
        assert states[-1].left == pytest.approx(2 * 56)
        clock.now = 112.0
        course.end(1)
        course.start(2)
        clock.now = 122.0
        course.moved(2, "features", 1, 2)
        assert states[-1].left == pytest.approx(10 + 10)  # what is left of the features, and half of 20 s
        assert 0.6 < states[-1].share < 1
        course.end(2)
        assert (states[-1].share, states[-1].left) == (1.0, 0.0)

    def test_several_at_a_time_take_less(self) -> None:
        clock, states = Clock(), list[State]()
        course = Course(states.append, clock)
        course.begin([(f"{i} on ks", "ks") for i in range(4)], 2)
        course.start(0)
        clock.now = 10.0
        course.moved(0, "scoring", 1, 2)
        assert states[-1].left == pytest.approx((10 + 3 * 20) / 2)


class TestDisplay:
    def test_plain_lines_come_while_the_command_is_busy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "FIRST", 0.05)
        monkeypatch.setattr(progress, "EVERY", 0.1)
        stream = io.StringIO()
        with Display("evaluate", stream=stream) as display:
            display.show("1 of 2, a on ks", 0.1, 100.0)
            time.sleep(0.4)
        lines = stream.getvalue().splitlines()
        assert 2 <= len(lines) <= 5
        assert lines[0] == "evaluate: 1 of 2, a on ks  [0 s so far, about 2 min left]"

    def test_the_first_line_comes_within_ten_seconds_and_the_others_within_fifteen(self) -> None:
        assert progress.FIRST < 10
        assert progress.EVERY <= 15

    def test_quiet_shows_nothing(self) -> None:
        stream = io.StringIO()
        with Display("evaluate", quiet=True, stream=stream) as display:
            display.show("text", 0.5, 1.0)
        assert stream.getvalue() == ""

    def test_a_terminal_gets_a_bar(self) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stream = Terminal()
        with Display("evaluate", stream=stream) as display:
            display.show("1 of 2, a on ks", 0.5, 4000.0)
            time.sleep(0.3)
        assert "1 of 2, a on ks" in stream.getvalue()
        assert "about 67 min left" in stream.getvalue()

    def test_durations_read_well(self) -> None:
        assert [duration(s) for s in (3.4, 89, 200, 7900)] == ["3 s", "89 s", "3 min", "2 h 12 min"]
        assert ahead(None) == "time left not known yet"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Tones of two pitches, which are their labels; 20 train, 8 dev, 8 test."""
    rows, t = ["path\tlabel\tsplit"], np.arange(4000) / 16_000
    for i in range(36):
        split = "train" if i < 20 else "dev" if i < 28 else "test"
        soundfile.write(tmp_path / f"{i:02d}.wav", 0.2 * np.sin(2 * np.pi * (300 + 900 * (i % 2)) * t * (1 + i / 500)), 16_000)
        rows.append(f"{i:02d}.wav\ttone{i % 2}\t{split}")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


class TestCommand:
    def test_prints_a_summary_or_one_json_or_nothing(self, corpus: Path) -> None:
        ask = ["evaluate", "log-mel", "--task", "ks", "--data", str(corpus / "manifest.tsv"), "--out", str(corpus / "out")]
        ask += ["--cache", str(corpus / "cache"), "--seed", "1"]
        plain = CliRunner().invoke(app, ask)
        assert plain.exit_code == 0
        assert "accuracy 100 %" in plain.stdout
        assert f"sottovoce report {corpus / 'out'}" in plain.stdout
        as_json = CliRunner().invoke(app, [*ask, "--json"])
        found = json.loads(as_json.stdout)
        assert [each["measures"]["accuracy"]["value"] for each in found["results"]] == [100.0]
        assert found["not_measured"] == []
        quiet = CliRunner().invoke(app, [*ask, "--quiet"])
        assert (quiet.exit_code, quiet.stdout) == (0, "")

    def test_a_pair_that_fails_is_in_the_json_and_the_status(self, corpus: Path) -> None:
        ask = ["evaluate", "log-mel", "--task", "ks", "--data", str(corpus / "manifest.tsv"), "--out", str(corpus / "out")]
        ask += ["--cache", str(corpus / "cache"), "--json", "training.steps=4", "training.lrs=[1e30]"]
        failed = CliRunner().invoke(app, ask)
        assert failed.exit_code != 0
        (reason,) = json.loads(failed.stdout)["not_measured"]
        assert "no trial of ks gives a finite score" in reason
        assert not (corpus / "out" / "records.jsonl").exists()

    def test_a_first_look_has_an_entry_of_its_own(self, corpus: Path) -> None:
        options = {"data": corpus / "manifest.tsv", "tasks": ["ks"], "out": corpus / "out", "cache": corpus / "cache"}
        (look,) = evaluate(["log-mel"], limit=6, **options)
        assert look.record["task"]["entry"] == "ks@6"
        assert look.record["data"]["limit"] == 6
        assert look.record["data"]["splits"]["train"]["recordings"] == 6
        (full,) = evaluate(["log-mel"], **options)
        assert full.new
        assert "limit" not in full.record["data"]
        assert not evaluate(["log-mel"], limit=6, **options)[0].new
        with pytest.raises(ValueError, match="--limit must be at least 1"):
            evaluate(["log-mel"], limit=0, **options)

    def test_scores_without_a_value_are_said_and_the_others_shown(self) -> None:
        measure = {"value": 1.25, "low": 1.0, "high": 1.5, "unit": ""}
        nothing = {"value": None, "low": None, "high": None, "unit": ""}
        assert scores({"measures": {"pearson": nothing, "rmse": measure}}) == "pearson has no value; rmse 1.25 (1 to 1.5)"
        assert scores({"measures": {"rmse": measure, "pearson": nothing}}) == "rmse 1.25 (1 to 1.5)"


class TestAudio:
    def test_a_repaired_file_is_measured_anew(self, corpus: Path) -> None:
        said: list[str] = []
        options = {"data": corpus / "manifest.tsv", "tasks": ["ks"], "out": corpus / "out", "cache": corpus / "cache"}
        (first,) = evaluate(["log-mel"], **options)
        assert not evaluate(["log-mel"], **options)[0].new
        for file in ("30.wav", "31.wav"):
            (corpus / "copy").write_bytes((corpus / file).read_bytes())
            (corpus / file).write_bytes((corpus / "copy").read_bytes())  # another time, the same audio
        assert not evaluate(["log-mel"], **options)[0].new
        soundfile.write(corpus / "30.wav", np.random.default_rng(0).normal(size=4000) * 0.1, 16_000)
        (again,) = evaluate(["log-mel"], say=said.append, **options)
        assert again.new
        assert any("measured anew: its record is of other audio" in text for text in said)
        assert again.record["data"]["fingerprint"] == first.record["data"]["fingerprint"]
        assert again.record["data"]["audio"] != first.record["data"]["audio"]

    def test_a_record_that_does_not_know_its_audio_counts_and_that_is_said(self, corpus: Path) -> None:
        said: list[str] = []
        options = {"data": corpus / "manifest.tsv", "tasks": ["ks"], "out": corpus / "out", "cache": corpus / "cache"}
        (first,) = evaluate(["log-mel"], **options)
        record = {**first.record, "data": {k: v for k, v in first.record["data"].items() if k != "audio"}}
        first.path.write_text(json.dumps(record) + "\n")
        assert not evaluate(["log-mel"], say=said.append, **options)[0].new
        assert any("do not say which audio they are of" in text for text in said)

    def test_the_digest_is_of_the_content(self, tmp_path: Path) -> None:
        def of(folder: str, text: bytes) -> str | None:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "a.wav").write_bytes(text)
            return audio_digest(Recordings([Recording("a", str(tmp_path / folder / "a.wav"))]), tmp_path / "kept.sqlite")

        assert of("one", b"x") == of("two", b"x") == of("one", b"x")
        assert of("one", b"y") != of("two", b"x")
        assert audio_digest(Recordings([Recording("a", str(tmp_path / "nowhere.wav"))])) is None
        one, two = str(tmp_path / "one" / "a.wav"), str(tmp_path / "two" / "a.wav")
        assert audio_digest(Recordings([Recording("a", one), Recording("b", two)])) != audio_digest(
            Recordings([Recording("a", two), Recording("b", one)])
        )


class TestLimit:
    def test_rows_are_spread_evenly_and_the_same_every_time(self) -> None:
        items = [Recording(f"{i:03d}", "x", fields={"split": "train" if i < 80 else "test"}) for i in range(100)]
        kept = limited(Recordings(items), 10)
        train = [int(item.id) for item in kept if item.fields["split"] == "train"]
        assert len(train) == 10
        assert [i // 8 for i in train] == list(range(10))
        assert sum(item.fields["split"] == "test" for item in kept) == 10
        assert limited(Recordings(reversed(items)), 10)[::-1] == kept
        assert len(limited(Recordings(items), 90)) == 100


def test_names_of_entries_write_nothing_outside_of_out(corpus: Path) -> None:
    (corpus / "tasks.yaml").write_text("tasks:\n  '../../escaped': {task: ks, data: manifest.tsv}\n")
    out = corpus / "in" / "out"
    before = set(corpus.rglob("*"))
    evaluate(["log-mel"], data=corpus / "tasks.yaml", out=out, cache=corpus / "cache")
    new = set(corpus.rglob("*")) - before
    assert all(path.is_relative_to(corpus / "in") or path.is_relative_to(corpus / "cache") for path in new)
    assert [each["task"]["entry"] for each in ledger.read_all(out / "records.jsonl")] == ["../../escaped"]
