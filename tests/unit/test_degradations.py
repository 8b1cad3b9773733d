"""Degradations: what each does to a recording, and that chains draw the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.core.config import ConfigError, build
from sottovoce.core.registry import DEGRADATIONS
from sottovoce.data import DataConfig, open_data, open_source
from sottovoce.data.decode import read_audio
from sottovoce.data.degradations import Chain, DegradationChoice, degraded
from sottovoce.data.degradations.codec import CODECS, Coding, coded
from sottovoce.data.degrade import degrade
from sottovoce.data.recording import Samples
from sottovoce.evaluation.suite.config import Source

LONGER_OR_SHORTER = ("speed", "silence", "cut")


def speechlike(samples: int = 24_000) -> Samples:
    """Harmonics of a gliding pitch, four times a second."""
    time = np.arange(samples) / 16_000
    phase = 2 * np.pi * (120 * time + 5 * np.sin(3 * time))
    tone = sum(np.sin(n * phase) / n for n in range(1, 30))
    return (0.1 * tone * (1 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def one(name: str, seed: int = 0, wave: Samples | None = None, **settings: Any) -> Samples:
    cls = DEGRADATIONS.get(name)
    result: Samples = cls(cls.Config(**settings))(speechlike() if wave is None else wave, np.random.default_rng(seed))
    return result


@pytest.mark.parametrize("name", DEGRADATIONS.names())
def test_changes_a_recording_and_the_same_seed_in_the_same_way(name: str) -> None:
    wave = speechlike()
    first, again, other = (one(name, seed, wave.copy()) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, wave)
    if name not in LONGER_OR_SHORTER:
        assert len(first) == len(wave)
    assert np.array_equal(wave, speechlike()), "it must not write into the audio that it is given"


@pytest.mark.parametrize("name", DEGRADATIONS.names())
def test_a_range_that_is_none_is_refused(name: str) -> None:
    cls = DEGRADATIONS.get(name)
    ranges = [key for key, value in vars(cls.Config()).items() if isinstance(value, tuple) and isinstance(value[0], float | int)]
    for key in ranges:
        for wrong in ((1.0,), (2.0, 1.0)):
            with pytest.raises(ValueError, match="two numbers"):
                cls.Config(**{key: wrong})


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_codec_keeps_the_speech_and_loses_some_of_it(codec: Coding) -> None:
    wave = speechlike()
    for level in (None,) if codec.levels is None else codec.levels:
        after = coded(wave, codec, level)
        assert len(after) == len(wave)
        assert np.corrcoef(after, wave)[0, 1] > 0.6
        assert np.square(after - wave).mean() > 1e-6 * np.square(wave).mean()


def test_a_recording_above_full_scale_is_not_clipped_by_a_codec() -> None:
    after = coded(4 * speechlike(), CODECS["mulaw"])
    assert np.allclose(after / 4, coded(speechlike(), CODECS["mulaw"]), atol=0.02)


def test_clipping_sets_a_limit_below_the_peak() -> None:
    wave = speechlike()
    clipped = one("clipping", wave=wave, below_db=(20.0, 20.0))
    assert np.abs(clipped).max() == pytest.approx(np.abs(wave).max() / 10, rel=1e-4)
    quiet = np.abs(wave) < np.abs(wave).max() / 11
    assert np.array_equal(clipped[quiet], wave[quiet])


def test_a_band_has_nothing_beyond_its_ends() -> None:
    noise = np.random.default_rng(0).normal(size=32_000).astype(np.float32)
    narrow = one("bandwidth", wave=noise, highest=(3000.0, 3000.0), lowest=(400.0, 400.0))
    power, pitch = np.abs(np.fft.rfft(narrow)) ** 2, np.fft.rfftfreq(32_000, 1 / 16_000)
    outside = (pitch > 3301) | (pitch < 359)
    assert power[outside].sum() < 1e-6 * power.sum()
    inside = (pitch > 450) & (pitch < 2900)
    assert power[inside].sum() == pytest.approx((np.abs(np.fft.rfft(noise)) ** 2)[inside].sum(), rel=1e-3)


@pytest.mark.parametrize("mu_law", [0.0, 1.0])
def test_few_bits_have_few_values(mu_law: float) -> None:
    values = np.unique(one("quantization", bits=(4, 4), mu_law=mu_law))
    assert 8 <= len(values) <= 15


def test_packets_are_lost_as_often_and_in_bursts_as_long_as_asked() -> None:
    wave = np.ones(320 * 20_000, np.float32)
    silent = one("lost_packets", wave=wave, lost=(0.2, 0.2), burst=(3.0, 3.0), concealed=0.0)
    lost = silent.reshape(-1, 320).max(1) == 0
    assert lost.mean() == pytest.approx(0.2, abs=0.02)
    bursts = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]]))))[::2]
    assert bursts.mean() == pytest.approx(3, rel=0.1)


def test_a_concealed_gap_repeats_the_last_packet_and_fades() -> None:
    wave = np.repeat(np.arange(1, 2001, dtype=np.float32), 320)
    filled = one("lost_packets", wave=wave, lost=(0.3, 0.3), burst=(2.0, 2.0), concealed=1.0).reshape(-1, 320)
    for number in range(1, len(filled)):
        if filled[number, 0] != number + 1:  # lost
            assert filled[number, 0] == filled[number - 1, 0] / 2
    assert (filled[:, 0] != np.arange(1, 2001)).sum() > 300


def test_noise_has_the_ratio_that_is_drawn(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "hum.wav", np.sin(np.arange(8000) / 10).astype(np.float32), 16_000)
    wave = speechlike()
    noisy = one("noise", wave=wave, snr_db=(10.0, 10.0), noises=str(tmp_path))
    ratio = np.square(wave, dtype=np.float64).sum() / np.square(noisy - wave, dtype=np.float64).sum()
    assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.01)


def test_speed_changes_the_length_and_level_the_peak() -> None:
    wave = speechlike()
    assert len(one("speed", wave=wave, factor=(2.0, 2.0))) == pytest.approx(len(wave) / 2, abs=2)
    assert np.abs(one("level", wave=wave, peak_db=(-20.0, -20.0))).max() == pytest.approx(0.1, rel=1e-4)


def test_ends_are_cut_off_and_silence_comes_behind() -> None:
    wave = speechlike()
    assert np.array_equal(one("cut", wave=wave, share=(0.5, 0.5)), wave[:12_000])
    longer = one("silence", wave=wave, seconds=(0.1, 0.1))
    assert len(longer) == len(wave) + 1600
    assert np.array_equal(longer[: len(wave)], wave)
    assert not longer[len(wave) :].any()


def steps(**chosen: dict[str, Any]) -> dict[str, DegradationChoice]:
    """A chain as a recipe writes it."""
    return dict(build(DataConfig, {"degradations": chosen}).degradations)


def test_each_step_has_its_own_chance_and_draws() -> None:
    wave = speechlike()
    clip = steps(clipping={"chance": 1.0})
    assert np.array_equal(degraded(steps(clipping={"chance": 0.0}), wave, 3), wave)
    both = steps(noise={"chance": 0.0}, clipping={"chance": 1.0})
    settings = steps(noise={"chance": 0.0, "snr_db": [1, 2]}, clipping={"chance": 1.0})
    assert np.array_equal(degraded(both, wave, 3), degraded(settings, wave, 3))
    share = np.mean([not np.array_equal(degraded(steps(clipping={"chance": 0.3}), wave, seed), wave) for seed in range(300)])
    assert share == pytest.approx(0.3, abs=0.08)
    assert len({degraded(clip, wave, seed).max() for seed in range(20)}) == 20


def test_a_recording_of_which_nothing_is_left_stays() -> None:
    wave = np.concatenate([speechlike(3200), np.zeros(3200, np.float32)])
    lost = {"chance": 1.0, "lost": [0.9, 0.9], "burst": [100, 100], "concealed": 0.0}
    found = [degraded(steps(lost_packets=lost), wave, seed) for seed in range(30)]
    assert all(row.any() for row in found)
    assert any(np.array_equal(row, wave) for row in found)


@pytest.mark.parametrize(
    "wrong", [{"clippings": {}}, {"clipping": {"chance": 2}}, {"codec": {"codecs": []}}, {"room": {"rt60": 1}}]
)
def test_a_chain_with_a_mistake_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(DataConfig, {"degradations": wrong})


CHAIN: dict[str, dict[str, Any]] = {
    "room": {"chance": 0.5}, "noise": {"chance": 0.5}, "speed": {"chance": 0.5}, "codec": {"codecs": ["gsm", "mulaw"]},
    "lost": {"name": "lost_packets"},
}  # fmt: skip


def config(**changes: Any) -> DataConfig:
    return build(
        DataConfig,
        {
            "min_seconds": 0.3,
            "seconds_per_batch": 6,
            "crop": "none",
            "valid_share": 0.3,
            "workers": 0,
            "degradations": CHAIN,
            **changes,
        },
    )


def test_the_stream_gives_the_same_audio_with_workers_and_after_a_resume(speech_folder: Path) -> None:
    first = open_data(speech_folder, config(), seed=1).train
    waves = [next(first).wave for _ in range(6)]
    parallel = open_data(speech_folder, config(workers=2), seed=1).train
    assert all(torch.equal(wave, next(parallel).wave) for wave in waves)
    parallel.close()
    before = open_data(speech_folder, config(), seed=1).train
    for _ in range(3):
        next(before)
    resumed = open_data(speech_folder, config(), seed=1).train
    resumed.load(before.state())
    assert all(torch.equal(wave, next(resumed).wave) for wave in waves[3:])


def test_epochs_differ_and_held_out_recordings_do_not(speech_folder: Path) -> None:
    plain = open_data(speech_folder, config(degradations={}), seed=1)
    one, two = (open_data(speech_folder, config(), seed=seed) for seed in (1, 2))
    job = one.train.plan.job(0, 0)
    assert job.draws != one.train.plan.job(1, 0).draws
    assert job.draws != two.train.plan.job(0, 0).draws
    assert [each.utterances for each in one.valid.jobs] == [each.utterances for each in plain.valid.jobs]
    assert all(torch.equal(x.wave, y.wave) for x, y in zip(one.valid, two.valid, strict=True))
    assert any(
        x.wave.shape != y.wave.shape or not torch.equal(x.wave, y.wave) for x, y in zip(one.valid, plain.valid, strict=True)
    )


def test_passes_that_repeat_are_the_same_audio(speech_folder: Path) -> None:
    plan = open_data(speech_folder, config(repeat_after=2), seed=1).train.plan
    jobs = [[replace(plan.job(epoch, i), epoch=0) for i in range(plan.steps(epoch))] for epoch in range(4)]
    assert jobs[0] == jobs[2] != jobs[1] == jobs[3]
    endless = open_data(speech_folder, config(), seed=1).train.plan
    assert endless.job(1, 0) == plan.job(1, 0)
    with pytest.raises(ValueError, match="repeat_after must be 0 or more"):
        config(repeat_after=-1)


def test_a_recipe_without_degradations_draws_what_it_drew_before(speech_folder: Path) -> None:
    bare, chained = (
        open_data(speech_folder, each, seed=1).train.plan
        for each in (config(crop="shortest", degradations={}), config(crop="shortest"))
    )
    assert [replace(chained.job(0, i), degradations={}, draws=()) for i in range(3)] == [bare.job(0, i) for i in range(3)]


def test_a_task_file_degrades_each_recording_in_its_own_way(speech_folder: Path) -> None:
    source = build(Source, {"path": str(speech_folder), "degradations": {"clipping": {"chance": 1.0}, "noise": {"chance": 1.0}}})
    worse, clean = source.open(Path("/")), open_source(speech_folder)
    assert not np.array_equal(read_audio(worse[0]), read_audio(clean[0]))
    assert np.array_equal(read_audio(worse[0]), read_audio(source.open(Path("/"))[0]))
    other = degrade(clean, Chain(steps(clipping={"chance": 0.5})))
    assert other[0].fields["heard"] != worse[0].fields["heard"]
    assert other[0].loader.identity() != worse[0].loader.identity()  # type: ignore[union-attr]
