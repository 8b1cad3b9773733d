"""Diarization: labels from turns, a loss that no order of speakers changes, decisions, and the whole of it on tones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.data import Recording, Recordings
from sottovoce.data.mixtures import MixtureConfig
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.tasks.sd import SpeakerDiarization, decide, fitted, frame_labels, permutation_free_loss

RATE = 16_000


def test_labels_cover_the_turns() -> None:
    labels = frame_labels([(0.0, 0.1, "b"), (0.06, 0.2, "a")], 50.0, 3)
    assert labels.T.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [0] * 10]
    assert fitted(labels, 4).shape == (4, 3)
    assert fitted(labels, 12)[10:].sum() == 0
    assert frame_labels([], 50.0, 2).shape == (0, 2)


def test_the_loss_is_that_of_the_best_order() -> None:
    wanted = (torch.rand(4, 30, 3) > 0.5).float()
    logits, lengths = torch.randn(4, 30, 3), torch.tensor([30, 20, 10, 1])
    value = permutation_free_loss(logits, wanted, lengths)
    torch.testing.assert_close(permutation_free_loss(logits[..., [2, 0, 1]], wanted, lengths), value)
    torch.testing.assert_close(permutation_free_loss(logits, wanted[..., [1, 0, 2]], lengths), value)
    sure = 40 * (wanted[..., [1, 2, 0]] - 0.5)
    assert permutation_free_loss(sure, wanted, lengths) < 1e-6
    noise = logits.clone()
    noise[2, 10:] = 1e3  # behind the end
    torch.testing.assert_close(permutation_free_loss(noise, wanted, lengths), value)


def test_the_loss_of_two_is_by_hand() -> None:
    logits, wanted = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[0.0, 1.0]]])
    swapped = (-torch.nn.functional.logsigmoid(torch.tensor([2.0, 1.0]))).mean()  # the outputs as (1, 0)
    torch.testing.assert_close(permutation_free_loss(logits, wanted, torch.tensor([1])), swapped)


def test_decisions_are_a_threshold_and_a_median() -> None:
    from scipy.signal import medfilt

    heard = np.random.default_rng(0).random((80, 2)).astype(np.float32)
    for threshold, size in ((0.5, 1), (0.4, 5), (0.6, 11)):
        expected = medfilt((heard > threshold).astype(float), (size, 1)) > 0.5
        np.testing.assert_array_equal(decide(heard, threshold, size), expected)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Six people of two pitches in each of three splits; each says a tone for 3 s, three times."""
    folder, made = tmp_path_factory.mktemp("people"), Recordings()
    random = np.random.default_rng(1)
    for number in range(18):
        for take in range(3):
            t = np.arange(3 * RATE) / RATE
            pitch = (300, 1500)[number % 2] * random.uniform(0.97, 1.03)
            path = folder / f"{number}-{take}.wav"
            soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch * t), RATE)
            fields = {"speaker": f"s{number % 2}-{number}", "split": ("train", "dev", "test")[number // 6]}
            made.append(Recording(path.name, str(path), duration=3.0, fields=fields))
    return made


FAST = Training(lrs=(1e-2,), steps=60, batch=8, evaluate_every=15, patience=9, standardize=True)
MIXED = MixtureConfig(train=16, dev=6, test=8, seconds=6.0)


def run(recordings: Recordings, folder: Path, **settings: Any) -> Outcome:
    config = SpeakerDiarization.Config(**{"training": FAST, "hidden": 24, "chunk_seconds": 6.0, **settings})
    return SpeakerDiarization(config).measure(open_subject("log-mel"), recordings, Workbench(FeatureStore(folder), seeds=(1,)))


def test_tells_tones_apart(people: Recordings, tmp_path: Path) -> None:
    """Two people of one pitch cannot be told apart by a tone, so only conversations of unlike ones are asked for."""
    pairs = [(kind, split) for kind in ("0", "1") for split in ("train", "dev", "test")]
    one_each = Recordings()
    for kind, split in pairs:
        names = sorted({item.fields["speaker"] for item in people if item.fields["split"] == split})
        chosen = next(name for name in names if name.startswith(f"s{kind}"))
        one_each += [item for item in people if item.fields["speaker"] == chosen]
    outcome = run(one_each, tmp_path, mixtures=MIXED)
    der = outcome.measures[0]
    assert der.metric.name == "der"
    assert der.value < 15
    assert der.items == 8
    json.dumps(outcome.record())
    again = run(one_each, tmp_path, mixtures=MIXED)
    assert again.measures == outcome.measures
    mixed = SpeakerDiarization(SpeakerDiarization.Config(mixtures=MIXED)).arrange(one_each)
    others = [mixed[-1].fields["turns"], *(item.fields["turns"] for item in mixed[:-1])]
    wrong = (replace(item, fields={**item.fields, "turns": turns}) for item, turns in zip(mixed, others, strict=True))
    assert run(Recordings(wrong), tmp_path).measures[0].value > der.value + 25  # turns of other conversations teach nothing


def test_recordings_with_turns_are_used_as_they_are(people: Recordings, tmp_path: Path) -> None:
    task = SpeakerDiarization(SpeakerDiarization.Config(mixtures=replace(MIXED, train=1, dev=1, test=1)))
    known = replace(people[0], id="known", fields={"split": "train", "turns": '[[0, 1, "x"]]'})
    made = task.arrange(Recordings([known, *people]))
    assert made[0] is known
    assert len(made) == 4
    with pytest.raises(ValueError, match=r"no usable train recordings \(54 skipped: 54 no turns\).*'mixtures'"):
        run(people, tmp_path)


def test_long_recordings_are_cut_and_their_turns_with_them() -> None:
    task = SpeakerDiarization(SpeakerDiarization.Config(chunk_seconds=10.0))
    task.rate = 50.0
    item = Recording("x", "x", duration=24.0, fields={"split": "train", "turns": '[[8, 12, "a"], [11, 30, "b"]]'})
    splits, _ = task.items(Recordings([item, replace(item, id="y", fields={**item.fields, "split": "test"})]))
    assert [(each.piece.start, each.piece.seconds) for each in splits["train"]] == [(0.0, 10.0), (10.0, 10.0)]
    assert [(each.piece.start, each.piece.seconds) for each in splits["test"]] == [(0.0, None)]
    from sottovoce.evaluation.kinds.probing import Fold

    labels = [each.target[0] for each in task.prepare(Fold(splits["train"], [], splits["test"])).train]
    assert labels[0].sum(0).tolist() == [100, 0]
    assert labels[1].sum(0).tolist() == [100, 450]
    assert labels[1][50:100].sum() == 100


def test_too_many_speakers_are_a_reason() -> None:
    task = SpeakerDiarization(SpeakerDiarization.Config())
    turns = json.dumps([[i, i + 1, str(i)] for i in range(3)])
    _, skipped = task.items(
        Recordings(Recording("x", "x", duration=9.0, fields={"split": "train", "turns": text}) for text in (turns, "[]"))
    )
    assert [row["reason"] for row in skipped] == ["3 speakers", "nobody speaks"]
    for wrong in ({"speakers": 9}, {"medians": (2,)}, {"thresholds": (1.5,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SpeakerDiarization.Config(**wrong)  # type: ignore[arg-type]


def test_conversations_of_up_to_three_train_for_recordings_with_turns(people: Recordings, tmp_path: Path) -> None:
    """The test split is real recordings with an RTTM; no mixtures are made for it."""
    real = [
        Recording(
            f"r{i}", people[i].path, duration=3.0, fields={"split": "test", "speaker": "x y z", "rttm": str(tmp_path / "r.rttm")}
        )
        for i in range(2)
    ]
    lines = (
        f"SPEAKER {Path(item.path).stem} 1 {i}.0 1.0 <NA> <NA> {who} <NA> <NA>" for item in real for i, who in enumerate("xyz")
    )
    (tmp_path / "r.rttm").write_text("\n".join(lines))
    plan = replace(MIXED, test=0, speakers=(2, 3), train=8, dev=4)
    short = replace(FAST, steps=4, evaluate_every=2)
    outcome = run(Recordings([*people, *real]), tmp_path, mixtures=plan, speakers=3, training=short)
    assert outcome.measures[0].items == 2
    assert outcome.record()["data"]["splits"]["test"]["speakers"] == 3
    with pytest.raises(ValueError, match="raise that to 3"):
        SpeakerDiarization.Config(mixtures=plan)


def test_the_interval_draws_speakers() -> None:
    task = SpeakerDiarization(SpeakerDiarization.Config())
    assert task.drawn(["a b", "", "c"]) == [("a", "b"), (), ("c",)]
    random = np.random.default_rng(0)
    pairs = [f"s{a} s{b}" for a, b in (random.choice(10, 2, replace=False) for _ in range(40))]
    hard = random.integers(0, 80, 10)
    errors = [sum(hard[int(name[1:])] for name in pair.split()) for pair in pairs]
    rows = np.column_stack([errors, np.full(40, 400)]).astype(float)
    from sottovoce.evaluation.statistics.bootstrap import interval, ratio

    (found,) = task.measures([rows], pairs)
    low, high = interval(rows, ratio, pairs)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 1.3 * (high - low)


def test_mistakes_show_without_reading_audio(people: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sottovoce.data.mixtures.read_audio", None)
    task = SpeakerDiarization(SpeakerDiarization.Config(mixtures=MIXED))
    task.check(people)
    with pytest.raises(ValueError, match="the test split has 0"):
        task.check(Recordings(item for item in people if item.fields["split"] != "test"))
    with pytest.raises(ValueError, match="no usable test recordings"):
        SpeakerDiarization(SpeakerDiarization.Config(mixtures=replace(MIXED, test=0))).check(people)
