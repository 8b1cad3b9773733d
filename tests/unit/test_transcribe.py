"""Tasks of the whole model: what its decoder writes, normalised, counted, kept and refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sottovoce.core import ledger
from sottovoce.core.types import SAMPLE_RATE, Batch, Features
from sottovoce.data import Recordings
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.kinds.transcripts import Decoding, cut
from sottovoce.evaluation.statistics.metrics import edits
from sottovoce.evaluation.statistics.texts import language_code, normalizer
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.compare import compare
from sottovoce.evaluation.suite.run import evaluate
from sottovoce.tasks.transcribe import Transcription
from sottovoce.tasks.translate import HostTranslation

from .probing_helpers import HOP, Levels, levels_subject, recording

WORDS = {1: "cat", 2: "dog", 3: "bird", 4: "fish", 5: "Mr."}


class Reader(nn.Module):
    """A host that reads the levels of the audio as words, those of `misheard` wrongly. heard: the rows of each batch. asked_for: tasks."""

    name = "reader"
    most_tokens = 90
    told: ClassVar[dict[str, Any]] = {}

    def __init__(self, misheard: dict[int, str] | None = None) -> None:
        super().__init__()
        self.encoder, self.bridge, self.rest = Levels(), nn.Identity(), nn.Linear(1, 1)
        self.misheard, self.heard, self.given = misheard or {}, [], list[Any]()

    def asked(self, task: str, language: str, beams: int = 1) -> dict[str, Any]:
        if language == "xx":
            raise ValueError("knows no language 'xx'")
        return {"task": task, "language": language}

    def listen(self, batch: Batch) -> Features:
        self.heard.append(len(batch.wave))
        return self.encoder(batch.wave, batch.lengths)

    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        self.given.append(options)
        return features.last.argmax(-1)

    def texts(self, tokens: Tensor) -> list[str]:
        words = {**WORDS, **self.misheard}
        rows = [torch.unique_consecutive(row).tolist() for row in tokens]
        return [" " + " ".join(words[level] for level in row if level in words) for row in rows]


def subject(host: Reader, name: str = "reader") -> Subject:
    made = levels_subject()
    made.__dict__["host"] = host
    return made


def texts(folder: Path, rows: Sequence[tuple[Sequence[int], dict[str, str]]]) -> Recordings:
    return Recordings([recording(folder, f"r{i}", levels, fields) for i, (levels, fields) in enumerate(rows)])


def english(words: str, **fields: str) -> dict[str, str]:
    return {"text": words, "language": "en", **fields}


def measured(host: Reader, recordings: Recordings, out: Path | None = None, task: Any = Transcription, **config: Any) -> Outcome:
    bench = Workbench(FeatureStore(limit_gb=0), out=out)
    outcome: Outcome = task(task.Config(**config)).measure(subject(host), recordings, bench)
    return outcome


@pytest.mark.parametrize(
    ("name", "language", "text", "form"),
    [
        ("whisper", "en", "Mr. Quilter's  colour, uh, [noise] isn't twenty-one!", "mister quilter is color is not 21"),
        ("whisper", "cs", "Co je to za (divnou) LOĎ?", "co je to za loď"),
        ("basic", "en", "Mr. Quilter's colour", "mr quilter s colour"),
        ("whisper", "zh", "你好。", "你 好"),
        ("plain", "en", "Mr. Quilter’s  colour", "MR QUILTER'S COLOUR"),
        ("none", "en", " As it  is. ", "As it is."),
    ],
)
def test_texts_in_one_form(name: Any, language: str, text: str, form: str) -> None:
    assert normalizer(name, language)(text) == form


def test_languages_by_code_or_name() -> None:
    assert [language_code(name) for name in ("en", "EN-us", "en_GB", "English", "mdw", "")] == ["en", "en", "en", "en", "mdw", ""]


def test_edits_by_kind() -> None:
    assert edits(["a", "b", "c", "d"], ["a", "x", "c", "d", "e"]) == (1, 0, 1, 4)
    assert edits(["a", "b"], []) == (0, 2, 0, 2)


def test_long_recordings_are_cut_where_it_is_quiet() -> None:
    torch.manual_seed(0)
    wave = torch.randn(50 * 1600)
    wave[13 * 1600 : 15 * 1600] = 0
    parts = cut(wave, 16 * 1600)
    assert torch.equal(torch.cat(parts), wave)
    assert all(0 < len(part) <= 16 * 1600 for part in parts)
    assert 13 * 1600 < len(parts[0]) < 15 * 1600


def test_words_are_counted_as_they_were_written(tmp_path: Path) -> None:
    recordings = texts(
        tmp_path,
        [
            ([1, 2, 3], english("cat dog bird", split="test", speaker="a")),
            ([5, 1], english("Mister CAT!", split="test", speaker="b")),
            ([1, 4], {"text": "cat", "language": "cs", "split": "test", "speaker": "b"}),
            ([2], english("?!", split="test")),
            ([3], english("nothing to see", split="train")),
        ],
    )
    outcome = measured(Reader({2: "dock"}), recordings)
    wer, cer = outcome.measures
    assert (wer.metric.name, wer.value, wer.items) == ("wer", pytest.approx(100 * 2 / 6), 3)
    assert cer.value > 0
    details = outcome.details
    assert details["word_errors"] == {"substitutions": 1, "deletions": 0, "insertions": 1, "words": 6}
    assert details["languages"] == {"cs": {"wer": 100.0, "cer": pytest.approx(500 / 3, abs=1e-3), "items": 1}} | {
        "en": {"wer": 20.0, "cer": pytest.approx(details["languages"]["en"]["cer"]), "items": 2}
    }
    assert [row["recording"] for row in details["worst"]] == ["r2", "r0", "r1"]
    assert outcome.groups == ["a", "b", "b"]
    assert [row["reason"] for row in outcome.skipped] == ["no words in the text"]
    assert details["seconds_per_second"]["host"] >= details["seconds_per_second"]["encoder"] >= 0
    plain = measured(Reader({2: "dock"}), recordings, normalize="plain")
    assert plain.details["word_errors"]["substitutions"] == 2  # MR for MISTER
    assert measured(Reader(), recordings, primary="cer").measures[0].metric.name == "cer"


def test_data_without_splits_is_used_whole(tmp_path: Path) -> None:
    outcome = measured(Reader(), texts(tmp_path, [([1], english("cat")), ([2], english("dog"))]))
    assert (outcome.measures[0].value, outcome.measures[0].items) == (0.0, 2)
    with pytest.raises(ValueError, match=r"transcribe finds no usable test recordings.*reads the transcript in a column 'text'"):
        measured(Reader(), texts(tmp_path, [([1], {}), ([2], {})]))


def test_nothing_is_decoded_twice(tmp_path: Path) -> None:
    recordings = texts(tmp_path, [([1 + i % 4] * (1 + i), english(WORDS[1 + i % 4])) for i in range(5)])
    host = Reader()
    first = measured(host, recordings, tmp_path / "out", decoding=Decoding(batch=2))
    assert host.heard == [2, 2, 1]
    name = first.details["transcripts"]
    kept = tmp_path / "out" / "transcripts" / name
    again = measured(host, recordings, tmp_path / "out", decoding=Decoding(batch=2), normalize="none")
    assert host.heard == [2, 2, 1]
    assert again.details["transcripts"] == name
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:3]) + "\n")  # as if it had been stopped
    measured(host, recordings, tmp_path / "out", decoding=Decoding(batch=2))
    assert host.heard == [2, 2, 1, 2, 1]  # batches are what they were
    assert [row["text"] for row in ledger.read_all(kept)] == [json.loads(line)["text"] for line in lines]
    measured(host, recordings, tmp_path / "out", decoding=Decoding(batch=2, beams=2))
    assert len(list(kept.parent.glob("*.jsonl"))) == 2


def test_a_recording_that_is_too_long_is_decoded_in_pieces(tmp_path: Path) -> None:
    frames = [1] * 120  # each of them three frames and one of silence: 9.6 s
    recordings = texts(tmp_path, [(frames, english("cat " * 120)), ([3], english("bird"))])
    outcome = measured(Reader(), recordings, decoding=Decoding(window=3.0, batch=2))
    assert outcome.details["cut"] == 1
    assert outcome.measures[0].value < 5  # a word that is cut counts twice
    assert outcome.measures[0].items == 2


def test_the_host_is_told_the_language_and_the_most_tokens(tmp_path: Path) -> None:
    recordings = texts(tmp_path, [([1] * 50, english("cat")), ([2], {"text": "dog", "language": "Czech"})])
    host = Reader()
    measured(host, recordings)
    assert host.given[0] == {"task": "transcribe", "language": "cs", "max_new_tokens": 16}
    assert host.given[1] == {"task": "transcribe", "language": "en", "max_new_tokens": 16}
    host.given.clear()
    measured(host, recordings, decoding=Decoding(language="auto", tokens_per_second=10))
    assert host.given == [{"task": "transcribe", "language": "", "max_new_tokens": round(50 * 4 * HOP / SAMPLE_RATE * 10)}]
    with pytest.raises(ValueError, match="knows no language 'xx'"):
        measured(host, recordings, decoding=Decoding(language="xx"))
    with pytest.raises(ValueError, match="beams"):
        Decoding(beams=0)


def test_translations_are_scored_by_sacrebleu(tmp_path: Path) -> None:
    rows = [
        ([1, 2, 3, 4, 1], {"translation": "cat dog bird fish cat", "language": "cs"}),
        ([1], {"translation": "no", "language": "en"}),
    ]
    host = Reader()
    outcome = measured(host, texts(tmp_path, rows), task=HostTranslation)
    assert [(m.metric.name, m.value, m.items) for m in outcome.measures] == [
        ("bleu", pytest.approx(100), 1),
        ("chrf", pytest.approx(100), 1),
    ]
    assert "nrefs:1" in outcome.details["signatures"]["chrf"]
    assert host.given[0]["task"] == "translate"
    worse = measured(Reader({4: "fist"}), texts(tmp_path, rows), task=HostTranslation, primary="chrf")
    assert worse.measures[0].metric.name == "chrf"
    assert 20 < worse.measures[0].value < 100


def test_a_bare_encoder_is_refused_before_anything_runs(tmp_path: Path, speech_folder: Path, teacher_folder: Path) -> None:
    rows = [f"{path}\tone\ten" for path in sorted(speech_folder.glob("*.wav"))]
    manifest = tmp_path / "speech.tsv"
    manifest.write_text("\n".join(["path\ttext\tlanguage", *rows]) + "\n")
    with pytest.raises(
        ValueError, match="transcribe: log-mel is an encoder alone, without a decoder or a head; name a whole model"
    ):
        evaluate(["log-mel"], data=manifest, tasks=["transcribe"], out=tmp_path / "out", cache_gb=0)
    with pytest.raises(ValueError, match="is an encoder alone"):
        compare(str(teacher_folder), "log-mel", data=manifest, tasks=["transcribe"], out=None)
    assert not (tmp_path / "out").exists()
