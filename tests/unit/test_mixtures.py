"""Simulated conversations: the same every time, labelled where there is sound, and nobody in two splits."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import Recording, Recordings, read_audio, turns_of
from sottovoce.data.mixtures import LEVEL, MixtureConfig, mixtures, speech
from sottovoce.evaluation.features.store import Piece

RATE = 16_000


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Twelve people in three splits, three recordings of 4 s each: a tone with silence before, behind and in the middle."""
    folder, made = tmp_path_factory.mktemp("voices"), Recordings()
    for speaker in range(12):
        for take in range(3):
            t = np.arange(4 * RATE) / RATE
            loud = ((t > 0.5) & (t < 1.5)) | ((t > 2.2) & (t < 3.5))
            path = folder / f"{speaker}-{take}.wav"
            soundfile.write(path, 0.1 * (take + 1) * loud * np.sin(2 * np.pi * 100 * (speaker + 2) * t), RATE)
            fields = {"speaker": f"s{speaker}", "split": ("train", "dev", "test")[speaker // 4]}
            made.append(Recording(path.name, str(path), duration=4.0, fields=fields))
    return made


SMALL = MixtureConfig(train=6, dev=2, test=2, seconds=12.0)


def test_speech_is_found_between_silences() -> None:
    t = np.arange(3 * RATE) / RATE
    wave = (((t > 0.5) & (t < 1.2)) | ((t > 1.4) & (t < 2.0))) * np.sin(2 * np.pi * 200 * t)
    wave[round(2.5 * RATE) : round(2.55 * RATE)] = 0.5  # a click
    ((start, end),) = speech(wave.astype(np.float32))  # the pause of 0.2 s is within speech
    assert (start, end) == pytest.approx((0.5, 2.0), abs=0.02)
    assert speech(np.zeros(RATE, np.float32)) == ()
    assert speech(np.zeros(0, np.float32)) == ()


def test_turns_are_where_the_sound_is(voices: Recordings) -> None:
    for item in mixtures(voices, SMALL):
        wave = read_audio(item)
        assert len(wave) == 12 * RATE
        heard = np.zeros(len(wave), bool)
        for start, end, _ in turns_of(item):
            heard[round(start * RATE) : round(end * RATE)] = True
        energy = np.square(wave)
        assert energy[~heard].sum() < 0.01 * energy.sum()
        assert 0.3 < np.sqrt(energy[heard].mean()) / LEVEL < 3


def test_every_split_has_its_own_speakers_and_both_are_named(voices: Recordings) -> None:
    made = mixtures(voices, SMALL)
    assert [item.fields["split"] for item in made] == ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    for item in made:
        speakers = item.fields["speaker"].split()
        assert len(speakers) == 2
        assert {who for _, _, who in turns_of(item)} == set(speakers)
        assert {int(who[1:]) // 4 for who in speakers} == {("train", "dev", "test").index(item.fields["split"])}


def test_the_same_call_gives_the_same_conversations_whatever_the_order_and_number(voices: Recordings) -> None:
    one, two = mixtures(voices, SMALL), mixtures(Recordings(reversed(voices)), replace(SMALL, train=3))
    assert [item.id for item in one[:3]] == [item.id for item in two[:3]]
    assert one[0].fields == two[0].fields
    np.testing.assert_array_equal(read_audio(one[0]), read_audio(two[0]))
    assert Piece(one[0]).key == Piece(two[0]).key
    assert len({item.id for item in one}) == len(one)
    assert not {item.id for item in one} & {item.id for item in mixtures(voices, replace(SMALL, seed=2))}
    louder = mixtures(voices, replace(SMALL, noise_db=20.0))
    assert louder[0].id != one[0].id
    assert louder[0].fields["turns"] == one[0].fields["turns"]


def test_a_stretch_of_a_conversation_is_part_of_it_and_survives_pickling(voices: Recordings) -> None:
    item = mixtures(voices, replace(SMALL, noise_db=20.0))[0]
    copy = pickle.loads(pickle.dumps(item))
    np.testing.assert_array_equal(read_audio(copy, 3.0, 2.0), read_audio(item)[3 * RATE : 5 * RATE])


def test_how_many_talk_may_be_a_range(voices: Recordings) -> None:
    plan = replace(SMALL, train=20, speakers=(2, 4), seconds=30.0)
    counts = [len(item.fields["speaker"].split()) for item in mixtures(voices, plan)]
    assert set(counts) == {2, 3, 4}
    assert [item.id for item in mixtures(voices, replace(SMALL, speakers=(2, 2)))] == [
        item.id for item in mixtures(voices, SMALL)
    ]
    with pytest.raises(ValueError, match="conversations of 5 need"):
        mixtures(voices, replace(plan, speakers=(2, 5)))


def test_people_overlap_as_often_as_asked(voices: Recordings) -> None:
    def share(overlap: float) -> float:
        both = total = 0
        for item in mixtures(voices, MixtureConfig(train=20, dev=0, test=0, overlap=overlap, overlap_seconds=1.0)):
            heard = np.zeros((2, 2000))
            for start, end, who in turns_of(item):
                heard[item.fields["speaker"].split().index(who), round(start * 100) : round(end * 100)] = 1
            both, total = both + (heard.sum(0) == 2).sum(), total + (heard.sum(0) > 0).sum()
        return both / total

    assert share(0.0) == 0
    assert share(0.5) < share(1.0)


def test_what_cannot_be_read_is_passed_over(voices: Recordings, tmp_path: Path) -> None:
    gone = [replace(item, id=f"gone-{item.id}", path=str(tmp_path / "gone.wav")) for item in voices[::2]]
    assert len(mixtures(Recordings([*gone, *voices]), SMALL)) == 10
    with pytest.raises(ValueError, match="can be read"):
        mixtures(Recordings(replace(item, path=str(tmp_path / "gone.wav")) for item in voices), SMALL)


def test_mistakes_are_said(voices: Recordings) -> None:
    with pytest.raises(ValueError, match="test split has 0"):
        mixtures(Recordings(item for item in voices if item.fields["split"] != "test"), SMALL)
    both = Recordings([*voices, replace(voices[0], fields={"speaker": "s0", "split": "test"})])
    with pytest.raises(ValueError, match="speaker s0 is in train and in test"):
        mixtures(both, SMALL)
    for wrong in (
        {"turn": (0.1, 1.0)},
        {"speakers": 1},
        {"speakers": (4, 2)},
        {"speakers": (2,)},
        {"seconds": 2.0},
        {"overlap": 2.0},
        {"train": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MixtureConfig(**wrong)  # type: ignore[arg-type]
