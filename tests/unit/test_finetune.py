"""Fine-tuning tasks: what learns when, averages over languages, and that a model learns by heart what it is shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from sottovoce.core import ledger
from sottovoce.core.types import Features
from sottovoce.data import Recording, Recordings
from sottovoce.encoder import Encoder
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.heads import decoder
from sottovoce.evaluation.heads.probe import Trial
from sottovoce.evaluation.heads.schedule import Schedule, Training
from sottovoce.evaluation.heads.tuning import Tuned, Tuning, TuningSpeech, silenced, tune
from sottovoce.evaluation.kinds.learned import Fold, LearnedTask
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.evaluation.suite.run import evaluate
from sottovoce.reporting.check import problems
from sottovoce.tasks.finetune_asr import MultilingualRecognition
from sottovoce.tasks.finetune_st import FineTunedTranslation
from sottovoce.tasks.st import IGNORED, SpeechTranslation, Translating, padded
from tests.conftest import tiny_shape
from tests.unit.probing_helpers import SYMBOLS, Levels, gpt, levels_subject, recording

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"seconds_per_batch": 20.0, "workers": 0, "warmup": 0.0, "hold": 1.0}
WORDS = {"aa": ["AB", "BA", "AAB", "BBA", "ABAB"], "bb": ["CD", "DC", "CCD", "DDC", "CDCD"]}


class Mixed(Levels):
    """Levels behind a linear layer that begins as it is to end, and can be fine-tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = nn.ModuleDict({"convs": nn.ModuleList([nn.Linear(SYMBOLS, SYMBOLS)])})
        self.mix = nn.Linear(SYMBOLS, SYMBOLS)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(SYMBOLS))

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        found = super().forward(wave, lengths)
        x = self.mix(found.last) + 0 * self.frontend["convs"][0](found.last)
        return Features([found.last, x], found.lengths, found.last, x)


def mixed_subject() -> Subject:
    torch.manual_seed(0)
    return replace(levels_subject(), encoder=Mixed().eval())


def corpus(folder: Path, splits: tuple[str, ...] = ("train", "dev", "test")) -> list[Recording]:
    """Words of two languages, each word in each split; B is spoken as level 2 and so on. Translations are said backwards."""
    return [
        recording(folder, f"{split}-{word}", [ord(letter) - 64 for letter in word], fields(split, language, word))
        for split in splits
        for language, words in WORDS.items()
        for word in words
    ]


def fields(split: str, language: str, word: str) -> Mapping[str, str]:
    return {"split": split, "language": language, "text": word.lower(), "translation": f"{word[::-1]}."}


def recognition(**training: Any) -> MultilingualRecognition:
    tuning = Tuning(**{**QUICK, "lrs": (0.03,), "steps": 60, "freeze_steps": 20, "evaluate_every": 20, **training})
    return MultilingualRecognition(MultilingualRecognition.Config(training=tuning))


def measure(task: LearnedTask, subject: Subject, recordings: list[Recording], folder: Path, **bench: Any) -> Outcome:
    made = Workbench(FeatureStore(folder / "features"), **{"seeds": (1,), **bench})
    return task.measure(subject, Recordings(recordings), made)


# Training


def test_rates_rise_stay_and_fall() -> None:
    tuning = Tuning(steps=100, warmup=0.1, hold=0.4, final=0.05)
    assert tuning.rate(5) == pytest.approx(0.505)
    assert [tuning.rate(step) for step in (10, 30, 50)] == [1.0, 1.0, 1.0]
    assert tuning.rate(75) == pytest.approx(0.05**0.5)
    assert tuning.rate(100) == pytest.approx(0.05)
    assert Tuning(steps=10, warmup=0.0, hold=1.0).rate(10) == 1.0


@pytest.mark.parametrize("wrong", [{"lrs": ()}, {"steps": 0}, {"warmup": 0.7, "hold": 0.4}, {"final": 0.0}, {"mask": 2.0}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|share"):
        Tuning(**wrong)


def test_rates_of_a_probe_rise_and_fall_where_they_are_told_to() -> None:
    assert [Schedule((1e-3,), 1000).rate(step) for step in (1, 1000)] == [1.0, 1.0]
    assert [Schedule((1e-3,), 1000, warmup=100).rate(step) for step in (50, 100, 400)] == [0.5, 1.0, 0.5]
    with pytest.raises(ValueError, match="warmup"):
        Training(warmup=-1)


def test_masks_silence_stretches() -> None:
    torch.manual_seed(0)
    hidden = silenced(torch.ones(200, 16_000), 0.5) == 0
    assert 0.35 < hidden.float().mean() < 0.45, "1 - (1 - 0.5 / 10) ** 10, fewer at the start"
    assert not (silenced(torch.ones(2, 16_000), 0.0) == 0).any()
    ends = hidden[:, 1:].logical_and(~hidden[:, :-1]).nonzero()[:, 1] + 1
    assert (ends % 320 == 0).all()


def trained(folder: Path, steps: int, **more: Any) -> tuple[Subject, Tuned, Trial, list[str]]:
    subject, said = mixed_subject(), []
    task = recognition(steps=steps, **more)
    items, _ = task.items(Recordings(corpus(folder, ("train",))))
    fold = task.prepare(Fold(items["train"], items["train"], items["train"]))
    speech: TuningSpeech[Any] = task._speech(fold.train, "train", [])

    def judge(model: Tuned) -> float:
        return -task.scores(task.counted(model, speech, CPU, [])[1])[0]

    build = lambda: task.head(subject.dim)  # noqa: E731
    model, trial = tune(subject, build, task.loss, judge, speech, task.config.training, 1, 0.03, CPU, said.append)
    return subject, model, trial, said


def test_the_head_learns_alone_at_first(tmp_path: Path) -> None:
    subject, model, _, _ = trained(tmp_path, steps=10, freeze_steps=10, evaluate_every=10, weight_decay=0.1)
    untouched = subject.encoder.state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.encoder.state_dict().items())
    _, model, _, _ = trained(tmp_path, steps=11, freeze_steps=10, evaluate_every=11)
    changed = {name for name, value in model.encoder.state_dict().items() if not torch.equal(value, untouched[name])}
    assert changed == {"mix.weight", "mix.bias"}, "the front end's convolutions stay, the rest learns"
    _, model, _, _ = trained(tmp_path, steps=2, freeze_steps=0, evaluate_every=2, frontend=True, weight_decay=0.1)
    assert not torch.equal(model.encoder.state_dict()["frontend.convs.0.weight"], untouched["frontend.convs.0.weight"])


def test_training_is_the_same_every_time_and_says_how_far_it_is(tmp_path: Path) -> None:
    (_, one, first, said), (_, two, second, _) = (trained(tmp_path, steps=40, mask=0.2, features="sum") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert first.curve == second.curve
    assert [point[0] for point in first.curve] == [20, 40]
    assert len(said) == 2
    assert "update 40 of 40" in said[1]
    assert sum(one.shares()) == pytest.approx(1)
    assert one.shares()[0] != one.shares()[1]


def test_training_ends_early_but_not_while_the_encoder_is_frozen(tmp_path: Path) -> None:
    settings = {"freeze_steps": 30, "evaluate_every": 10, "patience": 2, "lrs": (1e-9,)}
    subject, said = mixed_subject(), []
    task = recognition(steps=200, **settings)
    measure(task, subject, corpus(tmp_path), tmp_path, say=said.append)
    assert [line.split("update ")[1].split(" ")[0] for line in said] == ["10", "20", "30", "40", "50"]


# Recognition


def test_recognition_learns_in_both_languages_and_leaves_the_subject_alone(tmp_path: Path) -> None:
    subject = mixed_subject()
    before = copy.deepcopy(subject.encoder.state_dict())
    flags = [weight.requires_grad for weight in subject.encoder.parameters()]
    outcome = measure(recognition(), subject, corpus(tmp_path), tmp_path, seeds=(1, 2))
    cer, wer = outcome.measures
    assert (cer.metric.name, wer.metric.name) == ("cer", "wer")
    assert cer.value <= 2
    assert outcome.details["alphabet"] == 4
    assert {name: each["items"] for name, each in outcome.details["languages"].items()} == {"aa": 5, "bb": 5}
    assert outcome.details["encoder"] == "fine-tuned"
    assert [trial["seed"] for trial in outcome.trials] == [1, 2]
    assert all(torch.equal(value, before[name]) for name, value in subject.encoder.state_dict().items())
    assert [weight.requires_grad for weight in subject.encoder.parameters()] == flags
    json.dumps(outcome.record())


def test_scores_are_means_over_languages() -> None:
    task = recognition()
    task.languages = ["aa", "bb"]
    # (word errors, words, character errors, characters, language)
    rows = np.array([[1, 10, 2, 40, 0], [0, 10, 2, 40, 0], [2, 4, 1, 10, 1]], dtype=float)
    assert task.scores(rows) == (pytest.approx((5 + 10) / 2), pytest.approx((5 + 50) / 2))
    assert task.scores(rows[:2]) == (pytest.approx(5), pytest.approx(5))
    task.alphabet = ["A"]
    assert task.details(Fold([], [], []), [rows, rows])["languages"] == {
        "aa": {"cer": 5.0, "wer": 5.0, "items": 2},
        "bb": {"cer": 10.0, "wer": 50.0, "items": 1},
    }


def test_a_language_without_a_dev_split_gives_some_of_its_training(tmp_path: Path) -> None:
    task = recognition()
    items, _ = task.items(Recordings(x for x in corpus(tmp_path) if x.fields["split"] != "dev" or x.fields["language"] == "aa"))
    (fold,) = task.folds(items)
    count = {part: [task.stratum(item) for item in getattr(fold, part)] for part in ("train", "dev", "test")}
    assert count["dev"] == ["aa"] * 5 + ["bb"] * 2
    assert count["train"] == ["aa"] * 5 + ["bb"] * 3
    assert len({id(item) for item in fold.train} & {id(item) for item in fold.dev}) == 0


def test_a_subject_without_weights_has_its_head_trained(tmp_path: Path) -> None:
    outcome = measure(recognition(lrs=(0.05,)), levels_subject(), corpus(tmp_path), tmp_path)
    assert outcome.measures[0].value <= 10
    assert outcome.details["encoder"] == "has no weights; the head alone learnt"


def test_the_blstm_head_and_log_mel(tmp_path: Path) -> None:
    tuning = Tuning(**{**QUICK, "lrs": (0.01,), "steps": 4, "freeze_steps": 0, "evaluate_every": 2})
    task = MultilingualRecognition(MultilingualRecognition.Config(tuning, "wer", layers=1, units=8, subsample=2))
    outcome = measure(task, open_subject("log-mel"), corpus(tmp_path), tmp_path)
    assert outcome.measures[0].metric.name == "wer"


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    recordings = corpus(tmp_path)
    lost = replace(recordings[0], path=str(tmp_path / "lost.flac"))
    broken = replace(recordings[20], path=str(tmp_path / "broken.flac"))
    (tmp_path / "broken.flac").write_bytes(b"fLaC")
    silent = Recording("none", recordings[1].path, fields={"split": "train", "text": "...", "language": "aa"})
    made = [lost, silent, *recordings[1:20], broken, *recordings[21:]]
    outcome = measure(recognition(steps=2, evaluate_every=1), mixed_subject(), made, tmp_path)
    reasons = sorted(row["reason"] for row in outcome.skipped)
    assert reasons == ["missing", "no letters in the text", "not audio, or broken"]
    assert outcome.measures[0].items == 9
    with pytest.raises(ValueError, match=r"raise training\.max_seconds"):
        measure(recognition(max_seconds=0.01), mixed_subject(), recordings, tmp_path)
    long = max(item.duration or 0 for item in recordings)
    outcome = measure(recognition(max_seconds=long - 0.01, steps=2), mixed_subject(), recordings, tmp_path)
    assert {row["reason"] for row in outcome.skipped} == {f"longer than {long - 0.01:g} s"}
    assert outcome.measures[0].items == 10, "the test set stays whole"
    with pytest.raises(ValueError, match="no usable train recordings"):
        measure(recognition(), mixed_subject(), recordings[10:], tmp_path)


def tones(folder: Path, name: str, text: str, fields: Mapping[str, str]) -> Recording:
    """Each letter as a tone of its own for 100 ms, with a little noise."""
    t = np.arange(1600) / 16_000
    wave = np.concatenate([0.3 * np.sin(2 * np.pi * 250 * 1.4 ** (ord(letter) - 65) * t) for letter in text])
    wave += 0.01 * np.random.default_rng(len(text)).standard_normal(len(wave))
    soundfile.write(folder / f"{name}.wav", wave.astype(np.float32), 16_000)
    return Recording(name, str(folder / f"{name}.wav"), duration=len(wave) / 16_000, fields=dict(fields))


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Ten utterances that train, dev and test all have."""
    folder, texts = tmp_path_factory.mktemp("ten"), ["AB", "BA", "CAD", "DAC", "ACBD", "BDAC", "CC", "DBD", "ABCD", "DCBA"]
    return [
        tones(folder, f"{split}{i}", text, {"split": split, "text": text, "language": "aa", "translation": text[::-1].lower()})
        for split in ("train", "dev", "test")
        for i, text in enumerate(texts)
    ]


def encoder_subject() -> Subject:
    torch.manual_seed(1)
    encoder = Encoder(tiny_shape(2)).reset_parameters().eval()
    return replace(levels_subject(), encoder=encoder, layers=3, dim=32, frame_rate=50.0)


def test_recognition_learns_ten_utterances_by_heart(ten: list[Recording], tmp_path: Path) -> None:
    settings = {"lrs": (0.004,), "steps": 250, "freeze_steps": 10, "evaluate_every": 50, "warmup": 0.1, "hold": 0.9}
    outcome = measure(recognition(**settings), encoder_subject(), ten, tmp_path)
    assert outcome.measures[0].value <= 5


# Translation


def translation(training: Mapping[str, Any] | None = None, **more: Any) -> FineTunedTranslation:
    tuning = Tuning(**{**QUICK, "lrs": (0.004,), "steps": 80, "freeze_steps": 10, "evaluate_every": 40, **(training or {})})
    small = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "dropout": 0.0, "stride": 1, "beam": 3, **more}
    return FineTunedTranslation(FineTunedTranslation.Config(training=tuning, **small))


def test_translation_learns_ten_utterances_by_heart(ten: list[Recording], tmp_path: Path) -> None:
    task = translation({"steps": 250, "evaluate_every": 125, "hold": 0.5}, primary="chrf")
    outcome = measure(task, encoder_subject(), ten, tmp_path)
    chrf, bleu, perplexity = outcome.measures
    assert (chrf.metric.name, bleu.metric.name, perplexity.metric.name) == ("chrf", "bleu", "perplexity")
    assert chrf.value >= 95
    assert 1 < perplexity.value < 2
    assert outcome.details["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert outcome.details["signatures"]["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")
    assert outcome.details["languages"]["aa"]["chrf"] == pytest.approx(chrf.value, abs=1e-3)
    json.dumps(outcome.record())


def test_a_frozen_encoder_is_translated_too(ten: list[Recording], tmp_path: Path) -> None:
    """Judged by perplexity, nothing is said before the test."""
    training = Training(lrs=(0.004,), steps=300, batch=5, evaluate_every=150, warmup=50, standardize=True)
    small = {"dim": 32, "encoder_layers": 1, "layers": 1, "heads": 2, "ffn_dim": 64, "dropout": 0.0, "stride": 1, "beam": 3}
    task = SpeechTranslation(SpeechTranslation.Config(training=training, primary="perplexity", units="characters", **small))
    searches = []
    task.translations = lambda outputs: searches.append(outputs.beam) or SpeechTranslation.translations(task, outputs)  # type: ignore[method-assign, func-returns-value]
    perplexity, bleu, chrf = measure(task, encoder_subject(), ten, tmp_path).measures
    assert (perplexity.metric.name, bleu.metric.name, chrf.metric.name) == ("perplexity", "bleu", "chrf")
    assert perplexity.value < 2
    assert chrf.value >= 90
    assert set(searches) == {3}


def test_perplexity_of_a_decoder_that_knows_nothing(tmp_path: Path) -> None:
    task, subject = translation(), mixed_subject()
    items, _ = task.items(Recordings(corpus(tmp_path, ("train",))))
    fold = task.prepare(Fold(items["train"], items["train"], items["train"]))
    model = Tuned(subject, task.head(subject.dim), task.config.training, CPU).eval()
    torch.nn.init.zeros_(model.head.decoder.tokens.weight)
    _, rows = task.counted(model, task._speech(fold.train, "train", []), CPU, [])
    assert dict(zip([metric.name for metric in task.metrics], task.scores(rows), strict=True))["perplexity"] == pytest.approx(
        task.units.size, rel=1e-4
    )


def test_what_stands_after_a_rows_end_changes_nothing_in_its_context() -> None:
    torch.manual_seed(0)
    encoder, x = decoder.SpeechContext(16, 2, 2, 32, 0.1).eval(), torch.randn(2, 7, 16)
    found, frames = encoder(x, torch.tensor([7, 4]))
    alone, _ = encoder(x[1:, :4], torch.tensor([4]))
    torch.testing.assert_close(found[1, :4], alone[0], rtol=1e-5, atol=1e-5)
    assert frames.tolist() == [7, 4]
    assert decoder.SpeechContext(16, 0, 2, 32, 0.1)(x, frames)[0] is x


@pytest.mark.parametrize("units", ["characters", "bpe"])
def test_a_batch_translates_as_single_recordings(units: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, subject = translation(units=units, vocabulary=12, stride=2), mixed_subject()
    items, _ = task.items(Recordings(corpus(tmp_path, ("train",))))
    fold = task.prepare(Fold(items["train"], items["train"], items["train"]))
    model = task.ready(Tuned(subject, task.head(subject.dim), task.config.training, CPU).eval())
    speech = task._speech(fold.train, "train", [])
    order, together = task.counted(model, speech, CPU, [])
    alone = FineTunedTranslation(replace(task.config, training=replace(task.config.training, seconds_per_batch=0.1)))
    alone.__dict__.update({key: value for key, value in task.__dict__.items() if key != "config"})
    assert order == list(range(10))
    single, nats = alone.counted(model, speech, CPU, [])[1], together.shape[1] - 3  # before tokens and language
    assert np.array_equal(np.delete(single, nats, axis=1), np.delete(together, nats, axis=1))
    np.testing.assert_allclose(single[:, nats], together[:, nats], rtol=1e-5)
    x, frames = torch.randn(2, 9, subject.dim), torch.tensor([9, 5])
    targets = [item.target for item in fold.train[:2]]
    sizes = [len(target.ids) + 1 for target in targets]
    one, two = (
        task.loss(model.head(x[i : i + 1, : int(frames[i])], frames[i : i + 1]), frames[i : i + 1], targets[i : i + 1])
        for i in (0, 1)
    )
    both = task.loss(model.head(x, frames), frames, targets)
    torch.testing.assert_close(both, (sizes[0] * one + sizes[1] * two) / sum(sizes), rtol=1e-4, atol=1e-5)


def test_padded_rows() -> None:
    assert padded([[1, 2], [3]], IGNORED, CPU).tolist() == [[1, 2], [3, IGNORED]]


def test_translations_are_found_by_sentence_or_by_column() -> None:
    def item(name: str, **fields: str) -> Recording:
        return Recording(name, f"{name}.wav", fields=fields)

    recordings = Recordings([
        item("a", language="en", locale="en_us", sentence="1", text="good day"),
        item("b", language="de", locale="de_de", sentence="1", text="guten tag"),
        item("c", language="de", locale="de_de", sentence="2", text="nur hier"),
        item("d", language="fr", translation_en="hello", translation_de="hallo"),
    ])  # fmt: skip
    for target in ("en", "en_us"):
        found = {x.id: x.fields["translation"] for x in translation(target=target).arrange(recordings)}
        assert found == {"b": "good day", "c": "", "d": "hello" if target == "en" else ""}
    assert translation().arrange(recordings) is recordings
    with pytest.raises(ValueError, match="1 no translation"):
        measure(translation(target="en"), mixed_subject(), recordings[2:3], Path("/nowhere"))


def test_a_decoder_of_transformers_learns_too(tmp_path: Path) -> None:
    recordings = corpus(tmp_path)
    folder = gpt(tmp_path, [item.fields["translation"] for item in recordings])
    task = translation({"steps": 300, "evaluate_every": 300}, primary="chrf", decoder=str(folder), beam=2)
    assert measure(task, mixed_subject(), recordings, tmp_path).measures[0].value >= 80


def test_settings_of_translation_that_cannot_be() -> None:
    for wrong in ({"dim": 30}, {"beam": 0}, {"length_penalty": -1.0}, {"encoder_layers": -1}):
        with pytest.raises(ValueError, match="must be"):
            Translating(**wrong)


# From the command's side


def test_a_task_file_gives_records_of_the_ledger(tmp_path: Path, teacher_folder: Path) -> None:
    rows = [
        "\t".join([Path(item.path).name, *(item.fields[name] for name in ("text", "translation", "language", "split"))])
        for item in corpus(tmp_path)
    ]
    (tmp_path / "manifest.tsv").write_text("\n".join(["path\ttext\ttranslation\tlanguage\tsplit", *rows]))
    training = "{seconds_per_batch: 5, workers: 0, steps: 2, freeze_steps: 1, evaluate_every: 1}"
    (tmp_path / "tasks.yaml").write_text(f"""
tasks:
  recognise: {{task: {{name: finetune-asr, training: {training}}}, data: manifest.tsv}}
  translate: {{task: {{name: finetune-st, training: {training}, dim: 16, layers: 1, heads: 2, ffn_dim: 16}}, data: manifest.tsv}}
""")
    out = tmp_path / "out"
    results = evaluate([str(teacher_folder)], data=tmp_path / "tasks.yaml", out=out, seeds=(1,), cache=tmp_path / "cache")
    assert [result.record["task"]["entry"] for result in results] == ["recognise", "translate"]
    for record in ledger.read_all(out / "records.jsonl"):
        assert problems(record) == []
        assert record["data"]["splits"]["test"]["recordings"] == 10
        assert set(record["details"]["languages"]) == {"aa", "bb"}
        assert len(record["trials"]) == 1
