"""Task files, and `evaluate`: what is measured, what is not measured again, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sottovoce
from sottovoce import recipes
from sottovoce.core import ledger
from sottovoce.core.config import ConfigError
from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.suite.config import load_suite, single
from sottovoce.evaluation.suite.pairs import fingerprint
from sottovoce.evaluation.suite.run import Unmeasured, evaluate

QUICK = "{lrs: [1e-2], steps: 20, batch: 8, evaluate_every: 10, standardize: true}"


@pytest.fixture
def corpus(speech_folder: Path, tmp_path: Path) -> Path:
    """A manifest with labels beside copies of the recordings."""
    rows = ["path\tlabel\tspeaker\tlanguage\tsplit"]
    for i, file in enumerate(sorted(speech_folder.glob("*.wav"))):
        shutil.copy(file, tmp_path / file.name)
        split = ("train", "train", "dev", "test")[i // 2 % 4]
        rows.append(f"{file.name}\tword{i % 2}\ts{i % 3}\ten\t{split}")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def task_file(corpus: Path) -> Path:
    (corpus / "tasks.yaml").write_text(f"""
seeds: [1, 2]
tasks:
  words: {{task: {{name: ks, training: {QUICK}}}, data: manifest.tsv}}
  voices:
    task: {{name: ks, training: {QUICK}}}
    data:
      - path: manifest.tsv
        fields: {{label: speaker}}
        limit: {{train: 9}}
  near: {{task: {{name: fidelity, frames: 500}}, data: manifest.tsv}}
""")
    return corpus / "tasks.yaml"


class TestTaskFiles:
    @pytest.mark.parametrize("name", recipes.task_files())
    def test_shipped_ones_parse(self, name: str) -> None:
        suite = load_suite(name, root="somewhere")
        assert suite.tasks
        assert suite.root == "somewhere"

    def test_entries_are_chosen_by_name_or_task(self, task_file: Path) -> None:
        suite = load_suite(task_file)
        assert list(suite.choose(["all"]).tasks) == ["words", "voices", "near"]
        assert list(suite.choose(["ks"]).tasks) == ["words", "voices"]
        assert list(suite.choose(["near"]).tasks) == ["near"]
        with pytest.raises(ValueError, match="no task 'wrods'; did you mean 'words'"):
            suite.choose(["wrods"])

    def test_sources_rename_filter_and_limit(self, task_file: Path) -> None:
        found = load_suite(task_file).tasks["voices"].open(task_file.parent)
        train = [item for item in found if item.fields["split"] == "train"]
        assert len(train) == 9
        assert {item.fields["label"] for item in train} <= {"s0", "s1", "s2"}
        again = load_suite(task_file).tasks["voices"].open(task_file.parent)
        assert [item.id for item in found] == [item.id for item in again]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("tasks: {a: {task: kss, data: x}}", "no tasks named 'kss'; did you mean 'ks'"),
            ("tasks: {a: {task: {name: ks, trainin: 1}, data: x}}", "unknown key 'tasks.a.task.trainin'"),
            ("tasks: {a: {task: ks}}", "'tasks.a.data' has no value"),
            ("tasks: {a: {task: ks, data: {pth: x}}}", "unknown key 'tasks.a.data.0..pth'; did you mean 'path'"),
            ("tasks: {}", "at least one task"),
            ("seeds: [1]", "'tasks' has no value"),
            ("tasks: {a: {task: {name: ks, training: {lrs: []}}, data: x}}", "at least one learning rate"),
        ],
    )
    def test_mistakes_are_named(self, text: str, says: str, tmp_path: Path) -> None:
        (tmp_path / "t.yaml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_suite(tmp_path / "t.yaml")

    def test_a_single_task_takes_overrides_of_its_own(self) -> None:
        suite = single("ks", "somewhere.tsv", ["training.steps=7"])
        assert suite.tasks["ks"].task.config.training.steps == 7
        with pytest.raises(ConfigError, match="unknown key"):
            single("ks", "somewhere.tsv", ["training.step=7"])


class TestEvaluate:
    def test_writes_one_entry_for_each_pair_and_does_not_repeat_itself(
        self, teacher_folder: Path, task_file: Path, tmp_path: Path
    ) -> None:
        said: list[str] = []
        options = {"data": task_file, "vs": [str(teacher_folder)], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        results = evaluate([f"untrained:{teacher_folder}", "log-mel"], say=said.append, **options)
        names = {(result.record["model"]["name"], result.record["task"]["entry"]) for result in results}
        random, teacher = f"untrained:{teacher_folder.name}", teacher_folder.name
        assert names == {
            *((model, task) for model in (random, "log-mel") for task in ("words", "voices", "near")),
            *((teacher, task) for task in ("words", "voices")),  # a teacher is not compared with itself
        }
        assert all(result.new and result.path.is_file() for result in results)
        assert len(said) == len(results)
        assert not any(result.new for result in evaluate([f"untrained:{teacher_folder}", "log-mel"], **options))

        records = ledger.read_all(tmp_path / "out" / "records.jsonl")
        assert len(records) == len(results)
        (record,) = [each for each in records if (each["model"]["name"], each["task"]["entry"]) == ("log-mel", "words")]
        assert record["kind"] == "evaluation"
        assert record["seeds"] == [1, 2]
        assert record["model"]["role"] == "control"
        assert record["data"]["source"] == ["manifest.tsv"]
        assert record["data"]["splits"]["train"]["recordings"] == 12
        assert str(tmp_path) not in json.dumps(record)

        with pytest.raises(ValueError, match="of log-mel on words with another seeds; give another --out, or --fresh"):
            evaluate(["log-mel"], tasks=["words"], seeds=[5], **{**options, "vs": []})
        (again,) = evaluate(["log-mel"], tasks=["words"], seeds=[5], fresh=True, **{**options, "vs": []})
        assert again.record["seeds"] == [5]
        assert not any(
            evaluate(["log-mel"], tasks=["words"], seeds=seeds, **{**options, "vs": []})[0].new for seeds in ([5], [1, 2])
        )

    def test_a_ledger_of_one_file_per_record_counts(self, task_file: Path, tmp_path: Path) -> None:
        options = {"data": task_file, "tasks": ["words"], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        (first,) = evaluate(["log-mel"], **options)
        first.path.unlink()
        ledger.write(tmp_path / "out" / "log-mel" / "words.json", first.record)
        (again,) = evaluate(["log-mel"], **options)
        assert not again.new
        assert again.record == first.record

    def test_a_record_of_an_older_version_of_the_task_no_longer_counts(
        self, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        options = {
            "data": task_file,
            "tasks": ["words"],
            "out": tmp_path / "out",
            "cache": tmp_path / "cache",
            "say": said.append,
        }
        (first,) = evaluate(["log-mel"], **options)
        assert first.record["task"]["version"] == 2
        monkeypatch.setattr(TASKS.get("ks"), "version", 3)
        monkeypatch.setattr(TASKS.get("ks"), "by_steps_since", 3)
        (again,) = evaluate(["log-mel"], **options)
        assert again.new
        assert again.record["task"]["version"] == 3
        assert "log-mel  words  measured anew: its record is of version 2 of the task, this is 3" in said
        assert not evaluate(["log-mel"], **options)[0].new
        assert [each["task"]["version"] for each in ledger.read_all(first.path)] == [2, 3]  # none is lost

    def test_a_record_of_steps_counts_after_the_default_has_changed(self, task_file: Path, tmp_path: Path) -> None:
        """What was measured with a schedule of steps is measured; what had the earlier default is measured by today's."""
        options = {"data": task_file, "tasks": ["words"], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        (first,) = evaluate(["log-mel"], **options)
        record = json.loads(first.path.read_text())
        record["task"]["version"] = 1
        first.path.write_text(json.dumps(record))
        assert not evaluate(["log-mel"], **options)[0].new
        task_file.write_text(task_file.read_text().replace(f"{{name: ks, training: {QUICK}}}", "ks"))
        record["task"]["config"]["training"] |= {"lrs": [1e-4], "steps": 200_000}
        first.path.write_text(json.dumps(record))
        (again,) = evaluate(["log-mel"], **options)
        assert again.new
        assert again.record["details"]["schedule"]["name"] == "solved"

    def test_a_field_that_came_later_had_its_default_before(self, task_file: Path, tmp_path: Path) -> None:
        options = {"data": task_file, "tasks": ["words"], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        (first,) = evaluate(["log-mel"], **options)
        record = json.loads(first.path.read_text())
        del record["task"]["config"]["training"]["warmup"]  # 0, as it is now
        first.path.write_text(json.dumps(record))
        assert not evaluate(["log-mel"], **options)[0].new
        del record["task"]["config"]["training"]["steps"]  # the task file's are not the default's
        first.path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match="another config"):
            evaluate(["log-mel"], **options)

    def test_models_of_one_name_are_told_apart(self, teacher_folder: Path, corpus: Path, tmp_path: Path) -> None:
        for part in ("one", "two"):
            shutil.copytree(teacher_folder, tmp_path / part / "student")
        found = evaluate(
            [str(tmp_path / part / "student") for part in ("one", "two")],
            data=corpus / "manifest.tsv",
            tasks=["ks"],
            out=tmp_path / "out",
            cache=tmp_path / "cache",
            seeds=[1],
            overrides=["training.steps=4", "training.evaluate_every=2"],
        )
        assert sorted(result.record["model"]["name"] for result in found) == ["one-student", "two-student"]

    def test_several_at_a_time_measure_the_same(self, teacher_folder: Path, task_file: Path, tmp_path: Path) -> None:
        options = {"data": task_file, "tasks": ["ks"], "cache": tmp_path / "cache"}
        alone = evaluate(["log-mel", str(teacher_folder)], out=tmp_path / "one", **options)
        beside = evaluate(["log-mel", str(teacher_folder)], out=tmp_path / "two", jobs=2, **options)
        scores = [
            {(r.record["model"]["name"], r.record["task"]["entry"]): r.record["measures"] for r in found}
            for found in (alone, beside)
        ]
        assert scores[0] == scores[1]
        assert len(scores[0]) == 4

    def test_comparisons_need_a_teacher(self, task_file: Path, tmp_path: Path) -> None:
        """Without one they are left out, in so many words; by name they are refused before anything is measured."""
        said: list[str] = []
        options = {"data": task_file, "out": tmp_path / "out", "cache": tmp_path / "cache"}
        found = evaluate(["log-mel"], say=said.append, **options)
        assert {result.record["task"]["entry"] for result in found} == {"words", "voices"}
        assert "near" in said[0]
        with pytest.raises(ValueError, match="near compares with a teacher"):
            evaluate(["log-mel"], tasks=["words", "near"], **options)

    def test_another_teacher_is_another_comparison(self, teacher_folder: Path, task_file: Path, tmp_path: Path) -> None:
        options = {"data": task_file, "tasks": ["near"], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        evaluate(["log-mel"], vs=[str(teacher_folder)], **options)
        with pytest.raises(ValueError, match="another reference"):
            evaluate(["log-mel"], vs=[f"untrained:{teacher_folder}"], **options)

    def test_a_model_may_be_its_own_teacher(self, teacher_folder: Path, task_file: Path, tmp_path: Path) -> None:
        teacher = str(teacher_folder)
        found = evaluate([teacher], vs=[teacher], data=task_file, tasks=["words"], out=tmp_path / "out", cache=tmp_path / "c")
        assert len(found) == 1

    def test_is_public(self) -> None:
        assert sottovoce.evaluate is evaluate

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"tasks": ["all"]}, "say which task the data is for"),
            ({"data": "nowhere.yaml", "tasks": ["all"]}, "there is no task file 'nowhere.yaml'"),
            ({"data": "testbed", "tasks": ["all"]}, "give their folder with --root"),
            ({"data": "nowhere"}, "does not exist"),
            ({"tasks": ["fidelity"]}, "compares with a teacher; name it with --vs"),
            ({"tasks": ["kss"]}, "no tasks named 'kss'"),
        ],
    )
    def test_says_what_is_wrong(self, change: dict[str, object], says: str, corpus: Path, tmp_path: Path) -> None:
        options = {"data": corpus / "manifest.tsv", "tasks": ["ks"], "out": tmp_path / "out", "cache": tmp_path / "c", **change}
        with pytest.raises(ValueError, match=says):
            evaluate(["log-mel"], **options)  # type: ignore[arg-type]


class TestMistakes:
    def test_all_of_them_are_said_before_anything_is_run(self, task_file: Path, tmp_path: Path) -> None:
        task_file.write_text(f"""
tasks:
  words: {{task: {{name: ks, training: {QUICK}}}, data: manifest.tsv}}
  gone: {{task: ks, data: nowhere.tsv}}
  ratings: {{task: quality, data: manifest.tsv}}
  people: {{task: sd, data: manifest.tsv}}
  search: {{task: qbe, data: {{path: manifest.tsv, fields: {{label: text}}, split: {{dev: train}}}}}}
  one: {{task: ks, data: {{path: manifest.tsv, where: {{label: word0}}}}}}
""")
        with pytest.raises(ValueError, match=r"nothing was run, because of 6 mistakes:") as caught:
            evaluate(["log-mel", "no-such-model"], data=task_file, out=tmp_path / "out", cache=tmp_path / "cache")
        lines = str(caught.value).splitlines()[1:]
        for name, says in (
            ("gone", "does not exist"),
            ("no-such-model", ""),
            ("ratings", "'score'"),
            ("people", "24 no turns"),
            ("search", "dev split"),
            ("one", "at least two classes"),
        ):
            assert any(line.startswith(f"  {name}: ") and says in line for line in lines), name
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "cache").exists()

    def test_what_is_measured_already_is_not_checked(self, task_file: Path, corpus: Path, tmp_path: Path) -> None:
        options = {"data": task_file, "tasks": ["words"], "out": tmp_path / "out", "cache": tmp_path / "cache"}
        evaluate(["log-mel"], **options)
        for file in corpus.glob("*.wav"):
            file.unlink()
        (result,) = evaluate(["log-mel"], **options)
        assert not result.new
        with pytest.raises(ValueError, match=r"24 skipped: 24 missing"):
            evaluate(["log-mel"], fresh=True, **options)

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_one_that_shows_later_does_not_end_the_others(self, task_file: Path, tmp_path: Path, jobs: int) -> None:
        """An earlier measurement of something else is in the way of one pair; audio that decodes to nothing in that of another."""
        said: list[str] = []
        options = {"data": task_file, "out": tmp_path / "out", "cache": tmp_path / "cache", "jobs": jobs}
        evaluate(["log-mel"], tasks=["words"], seeds=[7], **options)
        silent = tmp_path / "silent"
        silent.mkdir()
        rows = ["path\tseconds\tlabel\tsplit"]
        for i in range(8):
            soundfile.write(silent / f"{i}.wav", np.zeros(16_000), 16_000)
            rows.append(f"{i}.wav\t1.0\tword{i % 2}\t{('train', 'train', 'dev', 'test')[i // 2]}")
        (silent / "manifest.tsv").write_text("\n".join(rows) + "\n")
        task_file.write_text(task_file.read_text() + "  quiet: {task: ks, data: silent/manifest.tsv}\n")
        with pytest.raises(Unmeasured, match="are measured; the others were left out because of 2 mistakes") as caught:
            evaluate(["log-mel"], say=said.append, **options)
        assert {result.record["task"]["entry"] for result in caught.value.results} == {"voices"}
        assert {each["task"]["entry"] for each in ledger.read_all(tmp_path / "out" / "records.jsonl")} == {"words", "voices"}
        last = str(caught.value).splitlines()[1:]
        assert any("words" in line and "--fresh" in line for line in last)
        assert any("quiet" in line and "see what was skipped" in line for line in last)
        assert any("quiet" in line and "not measured" in line for line in said)


class TestLengths:
    def test_are_read_once_and_broken_files_are_counted(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A manifest that does not say how long its recordings are, as official corpora do not."""
        said: list[str] = []
        (corpus / "03.wav").write_bytes(b"RIFF nothing")
        short = ["training.steps=4", "training.evaluate_every=2"]
        options = {"data": corpus / "manifest.tsv", "tasks": ["ks"], "cache": tmp_path / "cache", "seeds": [1]}
        (result,) = evaluate(["log-mel"], out=tmp_path / "one", say=said.append, overrides=short, **options)
        assert result.record["data"]["splits"]["train"]["hours"] > 0
        assert result.record["data"]["skipped"] == 1
        assert said[0] == "ks: 1 of 24 recordings left out (1 not audio, or broken)"
        listed = tmp_path / "one" / "skipped.jsonl"
        (row,) = listed.read_text().splitlines()
        assert "03.wav" in row
        evaluate(["log-mel"], out=tmp_path / "one", overrides=short, fresh=True, **options)
        assert listed.read_text().splitlines() == [row]  # measured anew, listed once
        opened: list[str] = []
        monkeypatch.setattr("sottovoce.data.durations.header_seconds", lambda path: opened.append(path) or 1.0)
        evaluate(["log-mel"], out=tmp_path / "two", overrides=short, **options)
        assert opened == [str(corpus / "03.wav")]  # nothing is known of it, so it is looked at again


class TestFingerprint:
    def test_files_of_labels_count_by_content(self, tmp_path: Path) -> None:
        def of(where: str, text: str) -> str:
            (tmp_path / where).mkdir(exist_ok=True)
            path = tmp_path / where / "a.rttm"
            path.write_text(text)
            item = Recording("a", "a.wav", fields={"rttm": str(path)})
            return fingerprint(Recordings([item]), [str(path)])

        assert of("one", "x") == of("two", "x") != of("one", "y")
        plain = Recordings([Recording("a", "a.wav", fields={"label": "b"})])
        assert fingerprint(plain) == "af4203abef601343"  # as it was before, or every entry would have to be measured again

    def test_a_lexicon_of_another_content_is_another_measurement(self, corpus: Path, tmp_path: Path) -> None:
        manifest = corpus / "manifest.tsv"
        manifest.write_text(manifest.read_text().replace("\tlabel\t", "\ttext\t"))
        lexicon = tmp_path / "lexicon.txt"
        options = {"data": manifest, "tasks": ["pr"], "out": tmp_path / "out", "cache": tmp_path / "cache", "seeds": [1]}
        steps = [f"lexicon=[{lexicon}]", "training.steps=2", "training.evaluate_every=2"]
        lexicon.write_text("WORD0 A B\nWORD1 A C\n")
        evaluate(["log-mel"], overrides=steps, **options)
        lexicon.write_text("WORD0 A B\nWORD1 A D\n")
        with pytest.raises(ValueError, match="another data"):
            evaluate(["log-mel"], overrides=steps, **options)


def test_an_entrys_own_name_means_that_entry_alone() -> None:
    suite = load_suite("testbed")
    assert list(suite.choose(["sid"]).tasks) == ["sid"]
    assert set(suite.choose(["ks"]).tasks) == {"ks-arabic", "ks-digits"}
