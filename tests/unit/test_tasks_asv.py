"""Speaker verification: which trials there are, the network and its loss, and the whole of it on voices made of tones."""

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
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.kinds.verification import make_trials
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.tasks.asv import CONTEXT, SpeakerVerification, XVector, additive_margin_loss
from sottovoce.tasks.asv_cosine import CosineVerification, Whitening

RATE = 16_000
LIBRISPEECH = "^[^-]*-[^-]*"


def rows(*names: str, **fields: str) -> list[Recording]:
    """Recordings called speaker-session-number."""
    return [Recording(f"x/{name}.wav", name, fields={"speaker": name.split("-")[0], **fields}) for name in names]


class TestTrials:
    def test_targets_are_of_two_sessions(self) -> None:
        items = rows("a-1-0", "a-1-1", "a-2-0", "b-1-0", "b-1-1")
        found = make_trials(items, LIBRISPEECH, 100)
        pairs = {frozenset(items[i].path for i in pair) for pair in found.pairs[found.same]}
        assert pairs == {frozenset(("a-1-0", "a-2-0")), frozenset(("a-1-1", "a-2-0"))}
        assert (~found.same).sum() == 6
        assert make_trials(items, "", 100).same.sum() == 4

    def test_strangers_are_of_one_sex_where_both_are_known(self) -> None:
        items = [*rows("a-1-0", "b-1-0", sex="M"), *rows("c-1-0", gender="female"), *rows("d-1-0")]
        found = make_trials(items, "", 100)
        pairs = {"".join(sorted(items[i].path[0] for i in pair)) for pair in found.pairs}
        assert pairs == {"ab", "ad", "bd", "cd"}

    def test_a_limit_takes_equally_many_of_everyone(self) -> None:
        items = rows(*(f"{who}-1-{i}" for who, count in (("a", 20), ("b", 5), ("c", 5)) for i in range(count)))
        found = make_trials(items, "", 12)
        assert found.same.sum() == (~found.same).sum() == 12
        who = [items[i].path[0] for i in found.pairs[found.same][:, 0]]
        assert sorted(who.count(name) for name in "abc") == [4, 4, 4]

    def test_the_order_of_the_recordings_changes_nothing(self) -> None:
        items = rows(*(f"{who}-{i % 3}-{i}" for who in "abcd" for i in range(9)))

        def named(items: list[Recording]) -> set[tuple[frozenset[str], bool]]:
            found = make_trials(items, LIBRISPEECH, 30)
            return {
                (frozenset(items[i].id for i in pair), bool(same)) for pair, same in zip(found.pairs, found.same, strict=True)
            }

        assert named(items) == named(items[::-1])
        assert len(named(items)) == 60


class TestNetwork:
    def test_padding_changes_nothing(self) -> None:
        network = XVector(6, 8, 12, 5).eval()
        x = torch.randn(2, 40, 6)
        alone = network(x[:1, :25], torch.tensor([25]))
        beside = network(x, torch.tensor([25, 40]))
        for a, b in zip(alone, beside, strict=True):
            torch.testing.assert_close(a, b[:1])
        assert alone[0].shape == (1, 8)
        assert alone[1].abs().max() <= 1 + 1e-6
        assert CONTEXT == 14  # as s3prl's layers shorten their input

    def test_short_recordings_have_an_embedding_and_a_gradient(self) -> None:
        embedding, cosines = XVector(6, 8, 12, 5)(torch.randn(2, 3, 6), torch.tensor([3, 1]))
        assert torch.isfinite(embedding).all()
        cosines.sum().backward()

    def test_the_loss_is_that_of_the_paper(self) -> None:
        cosines, wanted = torch.tensor([[0.9, 0.2, -0.1], [0.1, 0.3, 0.2]]), torch.tensor([0, 2])
        by_hand = 0.0
        for row, right in zip(cosines, wanted, strict=True):
            top = torch.exp(30 * (row[right] - 0.4))
            rest = sum(torch.exp(30 * value) for i, value in enumerate(row) if i != right)
            by_hand -= float(torch.log(top / (top + rest))) / 2
        assert float(additive_margin_loss(cosines, wanted, 30.0, 0.4)) == pytest.approx(by_hand, rel=1e-5)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Voices of two tones in noise: eight for training, six for dev, six for the test; six recordings each, of two sessions."""
    folder, random, made = tmp_path_factory.mktemp("voices"), np.random.default_rng(5), Recordings()
    for speaker in range(20):
        tones = 200 * 1.1 ** (speaker * 7 % 20), 2000 * 1.06 ** (speaker * 3 % 20)
        for take in range(6):
            t = np.arange(RATE) / RATE
            wave = 0.1 * sum(np.sin(2 * np.pi * tone * t + random.uniform(0, 6)) for tone in tones)
            path = folder / f"{speaker}-{take % 2}-{take}.wav"
            soundfile.write(path, wave + 0.002 * random.standard_normal(len(t)), RATE)
            split = "train" if speaker < 8 else "dev" if speaker < 14 else "test"
            made.append(Recording(path.name, str(path), duration=1.0, fields={"speaker": f"s{speaker}", "split": split}))
    return made


FAST = Training(lrs=(3e-3,), steps=80, batch=16, evaluate_every=20, patience=9, standardize=True)


def run(recordings: Recordings, folder: Path, **settings: Any) -> Outcome:
    given = {"training": FAST, "width": 24, "pooled": 32, "min_seconds": 0.5, "session": LIBRISPEECH, **settings}
    task = SpeakerVerification(SpeakerVerification.Config(**given))
    return task.measure(open_subject("log-mel"), recordings, Workbench(FeatureStore(folder), seeds=(1,)))


def test_tells_new_voices_apart(voices: Recordings, tmp_path: Path) -> None:
    outcome = run(voices, tmp_path)
    eer, cost = outcome.measures
    assert (eer.metric.name, cost.metric.name) == ("eer", "min_dcf")
    assert eer.value < 30  # eight voices teach little, and chance is 50; one of 54 target trials more or less is rounding
    assert eer.low is not None
    assert eer.high is not None
    assert eer.low <= eer.value <= eer.high
    assert outcome.details["trials"] == {"target": 6 * 9, "non_target": 15 * 36, "from": "made"}
    assert outcome.details["train_speakers"] == 8
    json.dumps(outcome.record())
    assert run(voices, tmp_path).measures == outcome.measures


def test_the_interval_is_as_wide_as_other_speakers_would_spread_the_value() -> None:
    """Some voices are like others and some change from day to day, and every one of them is in many trials."""

    def speakers(seed: int, count: int = 12, each: int = 4) -> tuple[SpeakerVerification, Any, list[str]]:
        random = np.random.default_rng(seed)
        own = random.standard_normal((count, 1, 8)) * random.uniform(0.2, 1.2, (count, 1, 1))
        takes = own + random.standard_normal((count, each, 8)) * random.uniform(0.1, 0.9, (count, 1, 1))
        flat = (takes / np.linalg.norm(takes, axis=2, keepdims=True)).reshape(-1, 8)
        items = [Recording(f"{i}", f"{i}", fields={"speaker": f"s{i // each}"}) for i in range(count * each)]
        task = SpeakerVerification(SpeakerVerification.Config())
        task.trials, task.first_test = {"test": make_trials(items, "", 4000)}, 0
        return task, np.column_stack([np.arange(len(flat)), flat]), [item.fields["speaker"] for item in items]

    spread = np.std([task.scores(embeddings)[0] for task, embeddings, _ in map(speakers, range(100))])
    widths = []
    for task, embeddings, names in map(speakers, range(4)):
        eer = task.measures([embeddings], names)[0]
        assert eer.low is not None
        assert eer.high is not None
        widths.append(eer.high - eer.low)
    assert 0.8 < np.mean(widths) / (2 * 1.96 * spread) < 1.5


def test_wrong_names_are_chance(voices: Recordings, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names: dict[str, list[str]] = {}
    for item in voices:
        names.setdefault(item.fields["split"], []).append(item.fields["speaker"])
    for each in names.values():
        random.shuffle(each)
    shuffled = Recordings(replace(item, fields={**item.fields, "speaker": names[item.fields["split"]].pop()}) for item in voices)
    assert 40 < run(shuffled, tmp_path, session="").measures[0].value < 60


def test_a_list_of_trials_is_followed(voices: Recordings, tmp_path: Path) -> None:
    test = [item for item in voices if item.fields["split"] == "test"]
    trials = [
        (test[0].id, test[1].id, True),
        (test[0].id, test[8].id, False),
        (test[2].id, test[30].id, False),
        ("no", "no", True),
    ]
    outcome = run(Recordings(voices, trials=trials), tmp_path)
    assert outcome.details["trials"] == {"target": 1, "non_target": 2, "from": "the data"}
    assert outcome.measures[0].items == 3
    with pytest.raises(ValueError, match="none between two of its test recordings"):
        run(Recordings(voices, trials=[("no", "none", True)]), tmp_path)


def test_without_a_dev_split_other_speakers_are_held_out(voices: Recordings, tmp_path: Path) -> None:
    kept = Recordings(
        replace(item, fields={**item.fields, "split": item.fields["split"].replace("dev", "train")}) for item in voices
    )
    task = SpeakerVerification(SpeakerVerification.Config(min_seconds=0.5, max_seconds=0.5))
    splits, _ = task.items(task.arrange(kept))
    (fold,) = task.folds(splits)
    assert not {item.target for item in fold.train} & {item.target for item in fold.dev}
    made = task.prepare(fold)
    assert len({item.piece.recording.id for item in made.dev}) == len(made.dev)  # one crop of each
    assert made.test[0].target >= task.first_test


def test_crops_are_stretches_of_an_utterance() -> None:
    task = SpeakerVerification(SpeakerVerification.Config(max_seconds=8.0, min_seconds=2.0))
    item = Recording("x", "x", duration=19.0, fields={"speaker": "a", "split": "train"})
    assert [piece.start for piece in task.pieces(item, "train")] == [0.0, 8.0, 16.0]
    assert [piece.start for piece in task.pieces(replace(item, duration=17.0), "train")] == [0.0, 8.0]
    assert [piece.seconds for piece in task.pieces(item, "test")] == [None]
    _, skipped = task.items(Recordings([replace(item, duration=1.0)]))
    assert skipped[0]["reason"] == "shorter than 2 s"


def test_mistakes_are_said(voices: Recordings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no target trials in the dev split.*'session'"):
        run(voices, tmp_path, session="^[0-9]*")
    with pytest.raises(ValueError, match="'speaker'"):
        run(Recordings(replace(item, fields={"split": item.fields["split"]}) for item in voices), tmp_path)
    for wrong in ({"session": "("}, {"min_seconds": 9.0}, {"crops": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SpeakerVerification.Config(**wrong)  # type: ignore[arg-type]


def test_a_test_speaker_that_was_trained_on_is_no_stranger(voices: Recordings) -> None:
    everywhere = Recordings(
        replace(item, fields={**item.fields, "split": ("train", "dev", "test")[i % 3]}) for i, item in enumerate(voices)
    )
    task = SpeakerVerification(SpeakerVerification.Config(min_seconds=0.5, max_seconds=0.5))
    splits, _ = task.items(task.arrange(everywhere))
    (fold,) = task.folds(splits)
    with pytest.raises(ValueError, match=r"tests on strangers, but .* split the data by speakers"):
        task.prepare(fold)


def test_parts_of_disjoint_speakers_win_over_lists_for_identification() -> None:
    items = Recordings([*rows("a-1-0", part="dev", split="test"), *rows("b-1-0", part="test", split="train")])
    made = SpeakerVerification(SpeakerVerification.Config()).arrange(items)
    assert [item.fields["split"] for item in made] == ["train", "test"]


class TestWithoutLabels:
    @staticmethod
    def run(recordings: Recordings, folder: Path, **settings: Any) -> Outcome:
        task = CosineVerification(CosineVerification.Config(min_seconds=0.5, session=LIBRISPEECH, **settings))
        return task.measure(open_subject("log-mel"), recordings, Workbench(FeatureStore(folder), seeds=(1,)))

    def test_tells_new_voices_apart_whatever_the_training_voices_are_called(self, voices: Recordings, tmp_path: Path) -> None:
        outcome = self.run(voices, tmp_path, components=(0, 20))
        eer = outcome.measures[0]
        assert eer.value < 20
        assert eer.low is not None
        assert eer.high is not None
        assert eer.low <= eer.value <= eer.high
        assert outcome.details["components"] in (0, 20)
        assert outcome.details["dev_by_layer"][outcome.details["layer"]] == min(outcome.details["dev_by_layer"])
        json.dumps(outcome.record())
        renamed = Recordings(
            replace(item, fields={**item.fields, "speaker": f"x{i}"}) if item.fields["split"] == "train" else item
            for i, item in enumerate(voices)
        )
        assert self.run(renamed, tmp_path, components=(0, 20)).measures == outcome.measures

    def test_few_crops_and_broken_files_are_no_harm(self, voices: Recordings, tmp_path: Path) -> None:
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"no audio")
        extra = Recording("broken", str(broken), fields={"speaker": "s19", "split": "test"})
        outcome = self.run(Recordings([*voices, extra]), tmp_path, crops_used=5, components=(100,))
        assert outcome.details["components"] == 4
        assert [Path(row["path"]).name for row in outcome.skipped] == ["broken.wav"]

    def test_the_same_crops_are_used_wherever_the_files_are(self, voices: Recordings) -> None:
        task = CosineVerification(CosineVerification.Config(min_seconds=0.25, max_seconds=0.25, crops_used=50))

        def used(recordings: Recordings) -> list[tuple[str, float]]:
            (fold,) = task.folds(task.items(task.arrange(recordings))[0])
            return [(item.piece.recording.id, item.piece.start) for item in task.prepare(fold).train]

        moved = Recordings(replace(item, path=f"/elsewhere/{item.id}") for item in reversed(voices))
        assert used(voices) == used(moved)
        assert len(set(used(voices))) == 50

    def test_whitening_leaves_no_scale_and_no_correlation(self) -> None:
        random = np.random.default_rng(0)
        vectors = (random.standard_normal((500, 4)) @ random.standard_normal((4, 4)) * 7 + 3).astype(np.float32)
        whitening = Whitening(vectors, 10)
        assert whitening.most == 4
        white = whitening.principal.transform(whitening.standardised(vectors))
        np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-6)
        for components, wanted in ((0, whitening.standardised(vectors)), (2, white[:, :2]), (10, white)):
            by_hand = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
            np.testing.assert_allclose(whitening(vectors, components), by_hand)

    def test_mistakes_are_said(self) -> None:
        for wrong in ({"components": ()}, {"components": (-1,)}, {"crops_used": 1}, {"trials": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                CosineVerification.Config(**wrong)
