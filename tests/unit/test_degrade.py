"""Recordings heard in places of their own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sottovoce.data import Recordings, open_source
from sottovoce.data.decode import read_audio
from sottovoce.data.degrade import Degrade, degrade


@pytest.fixture
def both(speech_folder: Path) -> tuple[Recordings, Recordings]:
    clean = open_source(speech_folder)
    return clean, degrade(clean, Degrade())


def test_sounds_different_everywhere_and_the_same_every_time(both: tuple[Recordings, Recordings]) -> None:
    clean, worse = both
    for before, after in list(zip(clean, worse, strict=True))[:4]:
        x, y = read_audio(before), read_audio(after)
        assert len(x) == len(y)
        assert np.array_equal(y, read_audio(pickle.loads(pickle.dumps(after))))
        assert np.abs(x - y).mean() > 0.1 * np.abs(x).mean()
        assert np.square(y).mean() == pytest.approx(np.square(x).mean(), rel=0.01)


def test_places_go_with_the_recording(both: tuple[Recordings, Recordings]) -> None:
    """The same sound under two names is heard in two places."""
    how, wave = Degrade(), torch.randn(16_000)
    assert torch.equal(how(wave, "a"), how(wave, "a"))
    assert not torch.allclose(how(wave, "a"), how(wave, "b"), atol=0.05)
    assert not torch.allclose(how(wave, "a"), Degrade(seed=2)(wave, "a"), atol=0.05)


def test_a_stretch_is_cut_out_of_the_whole(both: tuple[Recordings, Recordings]) -> None:
    item = both[1][0]
    assert np.array_equal(read_audio(item, 0.25, 0.5), read_audio(item)[4000:12_000])


def test_what_is_kept_of_it_knows_the_settings(both: tuple[Recordings, Recordings]) -> None:
    clean, worse = both
    assert worse[0].fields["heard"] != degrade(clean, Degrade(seed=2))[0].fields["heard"]
    assert worse[0].loader is not None
    assert worse[0].loader.identity() != degrade(clean, Degrade(seed=2))[0].loader.identity()  # type: ignore[union-attr, attr-defined]


@pytest.mark.parametrize("config", [{"rt60": (0.5, 0.1)}, {"rt60": (0.0, 0.1)}, {"snr_db": (1.0,)}, {"equalizer_db": -1.0}])
def test_settings_that_make_no_sense_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Degrade(**config)  # type: ignore[arg-type]
