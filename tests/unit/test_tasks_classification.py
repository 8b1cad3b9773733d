"""Classification tasks and quality: they learn what is there, nothing that is not, and say what they need."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.sources import open_subject

FAST = Training(lrs=(1e-2, 3e-2), steps=120, batch=16, evaluate_every=20, patience=6, standardize=True)
PITCHES = (200, 400, 800, 1600)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """96 tones of four pitches: label, language and intent say which; speakers are disjoint over splits; score grows with pitch."""
    folder, random = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    made = []
    for i in range(96):
        kind, speaker = i % 4, i // 4
        path = folder / f"{speaker:02d}-{kind}-{i}.wav"
        t = np.arange(12000) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * PITCHES[kind] * random.uniform(0.99, 1.01) * t) + 0.03 * random.standard_normal(len(t))
        soundfile.write(path, wave, 16_000)
        fields = {
            "label": f"tone{kind}",
            "language": f"l{kind}",
            "speaker": f"s{speaker % 4}",
            "split": "train" if speaker < 14 else "dev" if speaker < 18 else "test",
            "score": str(kind + 0.1 * random.standard_normal()),
            "intent": json.dumps({"pitch": str(kind), "high": str(kind > 1)}),
        }
        made.append(Recording(path.name, str(path), duration=12000 / 16_000, fields=fields))
    return made


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(FeatureStore(tmp_path_factory.mktemp("bank")), seeds=(1, 2))


def run(name: str, recordings: list[Recording], bench: Workbench, **settings: object) -> Outcome:
    cls = TASKS.get(name)
    return cls(cls.Config(training=FAST, **settings)).measure(open_subject("log-mel"), Recordings(recordings), bench)


def changed(recordings: list[Recording], **fields: object) -> list[Recording]:
    """The recordings with fields set: a text for all, or a function of the index."""
    return [
        Recording(
            r.id,
            r.path,
            duration=r.duration,
            fields={**r.fields, **{k: v(i) if callable(v) else str(v) for k, v in fields.items()}},
        )
        for i, r in enumerate(recordings)
    ]


@pytest.mark.parametrize("name", ["ks", "lid", "ic", "er"])
def test_learns_what_is_there(name: str, tones: list[Recording], bench: Workbench) -> None:
    outcome = run(name, tones, bench, **({"folds": 0} if name == "er" else {}))
    accuracy = outcome.measures[0]
    assert accuracy.value > 95
    assert accuracy.low is not None
    assert accuracy.low <= accuracy.value <= (accuracy.high or 0)
    assert accuracy.items == 24
    assert len(accuracy.per_seed) == len(outcome.layer_weights) == 2
    assert [trial["chosen"] for trial in outcome.trials].count(True) == 2
    assert len(outcome.trials) == 3
    json.dumps(outcome.record())


def test_shuffled_labels_end_at_chance(tones: list[Recording], bench: Workbench) -> None:
    random = np.random.default_rng(1)
    outcome = run("ks", changed(tones, label=lambda i: f"tone{random.integers(4)}"), bench)
    assert outcome.measures[0].value < 50


def test_overfits_ten_utterances(tones: list[Recording], bench: Workbench) -> None:
    ten = tones[:10]
    same = [item for split in ("train", "dev", "test") for item in changed(ten, split=split, label=lambda i: str(i))]
    assert run("ks", same, bench).measures[0].value == 100


def test_folds_of_speakers_test_every_recording_once(tones: list[Recording], bench: Workbench) -> None:
    outcome = run("er", tones, bench, folds=4)
    assert outcome.measures[0].items == 96
    assert outcome.measures[0].value > 95
    assert {trial["fold"] for trial in outcome.trials} == {0, 1, 2, 3}
    named = run("er", changed(tones, fold=lambda i: str(i % 2), split=""), bench)
    assert {trial["fold"] for trial in named.trials} == {0, 1}
    with pytest.raises(ValueError, match="cannot make 9 folds of 4 speakers"):
        run("er", tones, bench, folds=9)


def test_speakers_are_told_apart_across_sessions(tones: list[Recording], bench: Workbench) -> None:
    """The speaker is the tone; a session is every sixth recording, and a session is never in train and test."""
    spoken = changed(tones, speaker=lambda i: f"s{i % 4}")
    outcome = run("sid", spoken, bench, session="^[0-9]*")
    assert outcome.measures[0].value > 95
    assert outcome.measures[0].items == len(tones)  # every session is tested once
    assert {trial["fold"] for trial in outcome.trials} == {0, 1, 2}
    task = TASKS.get("sid")(TASKS.get("sid").Config(session="^[0-9]*"))
    splits, _ = task.items(task.arrange(Recordings(spoken)))
    for fold in task.folds(splits):
        parts = [
            {(item.group, item.piece.recording.fields["turn"]) for item in part} for part in (fold.train, fold.dev, fold.test)
        ]
        assert parts[0].isdisjoint(parts[1] | parts[2])
        assert parts[1].isdisjoint(parts[2])
        assert {speaker for speaker, _ in parts[2]} <= {speaker for speaker, _ in parts[0]}
    with pytest.raises(ValueError, match="no two speakers with two sessions"):
        run("sid", spoken, bench, session="never")
    with pytest.raises(ValueError, match="regular expression"):
        run("sid", spoken, bench, session="(")


def test_an_answer_never_trained_on_cannot_be_right(tones: list[Recording], bench: Workbench) -> None:
    strange = changed(tones, label=lambda i: "new" if tones[i].fields["split"] == "test" else tones[i].fields["label"])
    assert run("ks", strange, bench).measures[0].value == 0


def test_quality_predicts_ratings(tones: list[Recording], bench: Workbench) -> None:
    outcome = run("quality", tones, bench)
    pearson, spearman, rmse = outcome.measures
    assert pearson.value > 0.95
    assert spearman.value > 0.9
    assert rmse.value < 0.5
    assert (rmse.metric.better, pearson.metric.unit) == ("lower", "")
    with pytest.raises(ValueError, match="equal"):
        run("quality", changed(tones, score="3"), bench)


def test_intents_count_whole_or_by_answer(tones: list[Recording], bench: Workbench) -> None:
    """One of the two questions is asked with answers nobody could know."""
    random = np.random.default_rng(2)
    half = changed(tones, intent=lambda i: json.dumps({"pitch": str(i % 4), "coin": str(random.integers(2))}))
    accuracy, answers = (measure for measure in run("ic", half, bench).measures)
    assert (accuracy.metric.name, answers.metric.name) == ("accuracy", "answers")
    assert accuracy.value < answers.value
    assert 60 < answers.value < 90
    assert run("ic", half, bench, primary="answers").measures[0].metric.name == "answers"


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("ks", {"label": ""}, "no usable train recordings.*no label.*column 'label'"),
        ("ks", {"split": "train"}, "no usable test recordings"),
        ("ks", {"label": "one"}, "at least two classes"),
        ("quality", {"score": "good"}, "score is not a number"),
        ("ic", {"intent": "{broken"}, "not valid JSON"),
    ],
)
def test_says_what_is_missing(name: str, fields: dict[str, str], says: str, tones: list[Recording], bench: Workbench) -> None:
    with pytest.raises(ValueError, match=says):
        run(name, changed(tones, **fields), bench)


def test_recordings_that_lack_a_label_are_listed(tones: list[Recording], bench: Workbench) -> None:
    outcome = run("ks", changed(tones, label=lambda i: "" if i == 5 else tones[i].fields["label"]), bench)
    assert [row["reason"] for row in outcome.skipped] == ["no label"]
    assert outcome.record()["data"]["skipped"] == 1


def test_without_a_dev_split_a_part_of_train_serves(tones: list[Recording], bench: Workbench) -> None:
    outcome = run("ks", [r for r in tones if r.fields["split"] != "dev"], bench)
    assert outcome.measures[0].value > 90
