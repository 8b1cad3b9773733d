"""What a student hears is made worse; what teacher and targets hear is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from sottovoce.core.types import Batch
from sottovoce.data.augment import Augment, recolour
from sottovoce.encoder import Encoder
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, load_recipe
from tests.conftest import one_teacher, tiny_shape


def test_keeps_energy_and_padding_and_changes_the_rest() -> None:
    wave, lengths = torch.randn(3, 8000), torch.tensor([8000, 6000, 3000])
    wave *= torch.arange(8000) < lengths[:, None]
    torch.manual_seed(1)
    made = Augment(share=1.0)(wave, lengths)
    assert not torch.allclose(made, wave, atol=0.1)
    torch.testing.assert_close(made.square().sum(1), wave.square().sum(1))
    assert not made[1, 6000:].any()
    assert not made[2, 3000:].any()
    torch.manual_seed(1)
    torch.testing.assert_close(Augment(share=1.0)(wave, lengths), made)


def test_the_halves_are_coloured_each_in_its_own_way() -> None:
    torch.manual_seed(0)
    tone = torch.sin(torch.arange(16_000) / 16_000 * 2 * torch.pi * 500)[None]
    made = recolour(tone, 10.0)[0]
    first, second = made[2000:6000].square().mean(), made[10_000:14_000].square().mean()
    assert abs(float(10 * torch.log10(first / second))) > 1


def test_by_default_nothing_is_changed_and_nothing_drawn() -> None:
    wave = torch.randn(2, 4000)
    state = torch.get_rng_state()
    assert Augment()(wave, None) is wave
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_student_in_training_hears_it() -> None:
    recipe, batch = load_recipe("layer-to-layer-random"), Batch(torch.randn(2, 8000))
    learner = Learner(Encoder(tiny_shape()), recipe.objectives, one_teacher(), Masking(), Augment(share=1.0))
    drawn = learner.draw(batch)
    assert drawn.batch.wave is batch.wave
    assert not torch.equal(drawn.student_wave, batch.wave)
    assert learner.eval().draw(batch).student_wave is batch.wave


@pytest.mark.parametrize(
    "bad", [{"share": 2.0}, {"snr_db": (5.0,)}, {"snr_db": (9.0, 3.0)}, {"voices": -1.0}, {"rooms": 2.0}, {"rt60": (0.5, 0.1)}]
)
def test_what_cannot_work_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1|two numbers"):
        Augment(**bad)  # type: ignore[arg-type]


class TestRecordedNoiseAndRooms:
    def source(self, folder: Path) -> str:
        t = torch.arange(8_000) / 16_000
        soundfile.write(folder / "hum.wav", (0.3 * torch.sin(2 * torch.pi * 6_000 * t)).numpy(), 16_000)
        soundfile.write(folder / "nothing.wav", torch.zeros(8_000).numpy(), 16_000)
        return str(folder)

    def test_the_noise_is_of_the_source_at_the_level_asked_for(self, tmp_path: Path) -> None:
        wave, lengths = 0.1 * torch.randn(3, 16_000), torch.tensor([16_000, 12_000, 16_000])
        wave = torch.fft.irfft(torch.fft.rfft(wave) * (torch.fft.rfftfreq(16_000, 1 / 16_000) < 4_000), n=16_000)
        wave[1, 12_000:] = 0
        augment = Augment(share=1.0, equalizer_db=0.0, snr_db=(10.0, 10.0), voices=0.0, noises=self.source(tmp_path))
        noisy = augment(wave, lengths)
        assert not noisy[1, 12_000:].any()
        power = torch.fft.rfft(noisy[0]).abs().square()
        above = float(power[5_900:6_100].sum() / power[:4_000].sum())
        assert 0.08 < above < 0.12
        assert not torch.equal(noisy, augment(wave, lengths))

    def test_rooms_smear_and_keep_the_energy(self) -> None:
        wave = torch.zeros(2, 16_000)
        wave[:, 4_000] = 1.0
        heard = Augment(share=1.0, equalizer_db=0.0, snr_db=(90.0, 90.0), voices=0.0, rooms=1.0, rt60=(0.3, 0.3))(wave, None)
        torch.testing.assert_close(heard.square().sum(1), wave.square().sum(1))
        assert (heard[:, 4_000:6_000].abs() > 1e-4).float().mean() > 0.5
        assert not torch.allclose(heard[0], heard[1])

    def test_a_source_without_sound_is_refused(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "nothing.wav", torch.zeros(8_000).numpy(), 16_000)
        with pytest.raises(ValueError, match="no recording that is not silent"):
            Augment(share=1.0, voices=0.0, noises=str(tmp_path))(torch.randn(1, 16_000), None)
