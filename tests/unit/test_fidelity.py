"""Fidelity: perfect for a model and itself, blind to a linear map, and low for strangers; and what makes audio worse."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.core.similarity import linear_cka
from sottovoce.core.types import Batch, Features
from sottovoce.data import Recordings
from sottovoce.data.corrupt import add_noise, impulse_responses, reverberate
from sottovoce.encoder import Encoder
from sottovoce.evaluation.features.pieces import NOT_FINITE
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Workbench
from sottovoce.tasks import fidelity
from sottovoce.tasks.fidelity import Fidelity
from tests.conftest import tiny_shape
from tests.unit.probing_helpers import SYMBOLS, Levels, levels_subject, recording


def batches() -> list[Batch]:
    return [Batch(torch.randn(4, 16_000)) for _ in range(4)]


def test_a_model_is_faithful_to_itself() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(Fidelity.Config()).run(encoder, copy.deepcopy(encoder), batches())
    assert found["mean"]["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert found["mean"]["explained"] == pytest.approx(1.0, abs=1e-2)
    assert found["mean"]["error"] == pytest.approx(1 - found["mean"]["explained"])
    assert found["mean"]["cka"] == pytest.approx(1.0, abs=1e-6)
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2, 3]
    assert set(found) == {"frames", "mean", "layers"}


class Rotated(nn.Module):
    """The same model in another basis."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.turn = encoder, torch.linalg.qr(torch.randn(32, 32))[0]

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        hidden = [x @ self.turn for x in self.encoder(wave, lengths).hidden]
        return Features(hidden, None, hidden[0], hidden[-1])


def test_a_rotation_is_undone_by_the_map_and_seen_by_the_plain_cosine() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(Fidelity.Config()).run(Rotated(encoder), encoder, batches())
    assert found["mean"]["mapped"] > 0.99
    assert found["mean"]["cka"] == pytest.approx(1.0, abs=1e-4)
    assert abs(found["mean"]["cosine"]) < 0.6


class Narrower(Rotated):
    """Half of the model's dimensions."""

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        hidden = [x[..., :16] for x in self.encoder(wave, lengths).hidden]
        return Features(hidden, None, hidden[0], hidden[-1])


def test_the_plain_cosine_of_another_width_is_not_comparable() -> None:
    """It has no value, which is not the same as 0."""
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(Fidelity.Config()).run(Narrower(encoder), encoder, batches())
    assert found["mean"]["cosine"] is None
    assert all(row["cosine"] is None for row in found["layers"])
    assert 0 < found["mean"]["explained"] < 1


def test_a_stranger_explains_less() -> None:
    encoder, other = (Encoder(tiny_shape()).reset_parameters().eval() for _ in range(2))
    own, strange = (Fidelity(Fidelity.Config()).run(model, encoder, batches())["mean"]["explained"] for model in (encoder, other))
    assert strange < own - 0.1


def test_no_audio_is_an_error() -> None:
    encoder = Encoder(tiny_shape())
    with pytest.raises(ValueError, match="no held-out audio"):
        Fidelity(Fidelity.Config()).run(encoder, encoder, [])


def test_cka_sees_shape_and_not_coordinates() -> None:
    x = torch.randn(4000, 12) @ torch.randn(12, 12)
    turn = torch.linalg.qr(torch.randn(12, 12))[0]
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1.0, abs=1e-5)
    assert linear_cka(x, torch.cat([x, x], dim=1)) == pytest.approx(1.0, abs=1e-5)  # widths may differ
    assert linear_cka(x, torch.randn(4000, 20)) < 0.02
    assert linear_cka(x, torch.ones(4000, 3)) == 0
    # One of two equally strong directions is shared: |Y'X|^2 = n^2, |X'X| = sqrt(2) n, |Y'Y| = n.
    plane = torch.randn(200_000, 2)
    assert linear_cka(plane, plane[:, :1]) == pytest.approx(0.5**0.5, abs=0.01)


FULL = Fidelity.Config(full=True, units=(5, 20))


def padded() -> list[Batch]:
    """Four batches of three rows, one of them short; louder in places, so that there is something to hear."""
    made = []
    for _ in range(4):
        lengths = torch.tensor([16_000, 9_000, 16_000])
        wave = torch.randn(3, 16_000) * (0.2 + torch.rand(3, 16).repeat_interleave(1000, dim=1))
        made.append(Batch(wave * (torch.arange(16_000) < lengths[:, None]), lengths))
    return made


def test_in_full_a_model_has_its_own_units_and_loses_as_much_in_noise_as_itself() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    found = Fidelity(FULL).run(encoder, copy.deepcopy(encoder), padded())
    assert set(found["robustness"]) == {"white", "pink", "babble", "reverb"}
    for row in found["layers"]:
        for count in FULL.units:
            assert row[f"nmi_{count}"] == pytest.approx(1.0)
            assert row[f"purity_{count}"] == pytest.approx(1.0)
            assert row[f"nmi_{count}_refit"] < 1
    for both in found["robustness"].values():
        assert both["student"] == pytest.approx(both["teacher"])
        assert both["teacher"]["cosine"] < found["mean"]["cosine"] - 0.001
        assert both["teacher"]["explained"] < found["mean"]["explained"] - 0.1
        assert both["teacher"]["cka"] < found["mean"]["cka"] - 0.001


def test_a_stranger_has_other_units_and_the_same_call_gives_the_same_numbers() -> None:
    encoder, other = (Encoder(tiny_shape()).reset_parameters().eval() for _ in range(2))
    audio = padded()
    strange = Fidelity(FULL).run(other, encoder, audio)
    assert strange["mean"]["nmi_20"] < strange["mean"]["nmi_20_refit"]
    assert strange["mean"]["purity_20"] < 1
    assert strange == Fidelity(FULL).run(other, encoder, audio)
    fidelity._labels.clear()  # units remembered from the first call
    assert strange == Fidelity(FULL).run(other, encoder, audio)


def test_too_little_audio_for_the_units_is_an_error() -> None:
    encoder = Encoder(tiny_shape()).reset_parameters().eval()
    with pytest.raises(ValueError, match="196 frames are too few for 500 units"):
        Fidelity(Fidelity.Config(full=True)).run(encoder, encoder, batches()[:1])
    with pytest.raises(ValueError, match="corruptions: wind is none of"):
        Fidelity.Config(corruptions=("wind",))


def energy(wave: Tensor) -> float:
    return float(wave.square().mean())


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
def test_noise_is_as_strong_as_asked_and_stays_out_of_the_padding(kind: str) -> None:
    batch = padded()[0]
    assert batch.lengths is not None
    noisy = add_noise(batch.wave, batch.lengths, kind, snr_db=10, seed=11)  # not the seed of the test's own audio
    assert torch.equal(noisy, add_noise(batch.wave, batch.lengths, kind, snr_db=10, seed=11))
    for clean, made, end in zip(batch.wave, noisy, batch.lengths.tolist(), strict=True):
        assert energy(made[:end]) == pytest.approx(energy(clean[:end]), rel=1e-4)  # as loud as before
        assert not made[end:].any()
        # made = c (clean + noise), and the noise hardly resembles the row: the clean part is what projects on it
        scale = float(made[:end] @ clean[:end] / clean[:end].square().sum())
        assert energy(clean[:end]) / energy(made[:end] / scale - clean[:end]) == pytest.approx(10, rel=0.15)


def test_pink_noise_falls_by_three_decibels_an_octave() -> None:
    clean = torch.randn(1, 160_000)
    noise = add_noise(clean, None, "pink", snr_db=-60)
    power = torch.fft.rfft(noise[0]).abs().square()
    octaves = [float(power[10 * f : 20 * f].sum()) for f in (100, 200, 400, 800, 1600)]  # ten bins to the hertz
    assert max(octaves) / min(octaves) < 1.25
    assert power[: 10 * 15].sum() < 1e-3 * power.sum()


def test_babble_is_made_of_the_other_rows() -> None:
    wave = torch.stack([torch.zeros(800), torch.ones(800), -torch.ones(800)])
    wave[0, ::2] = 1.0
    assert torch.equal(add_noise(wave, None, "babble", 0)[0], wave[0])  # the two others cancel
    with pytest.raises(ValueError, match="at least two recordings"):
        add_noise(wave[:1], None, "babble", 0)
    assert not torch.equal(add_noise(wave[:1], None, "babble", 0, others=[wave[1][:300]]), wave[:1])
    with pytest.raises(ValueError, match="no noise called 'wind'"):
        add_noise(wave, None, "wind", 0)


def test_silence_stays_silent() -> None:
    quiet = torch.zeros(1, 4000)
    assert not add_noise(quiet, None, "white", 10).any()
    assert not reverberate(quiet, None, 0.4).any()


def test_a_room_dies_away_in_its_time() -> None:
    room = impulse_responses(200, rt60=0.4)
    assert room.shape == (200, 6400)
    assert room[:, 0].eq(1).all()
    assert torch.allclose(room[:, 1:].square().sum(1), torch.ones(200), atol=1e-4)  # as much energy as the direct path
    early, late = (room[:, begin : begin + 800].square().mean().log10() * 10 for begin in (1, 3201))
    assert float(early - late) == pytest.approx(30, abs=0.5)  # half of 60 dB in half the time
    assert torch.allclose(impulse_responses(1, 0.4, drr_db=10)[:, 1:].square().sum(), torch.tensor(0.1), atol=1e-4)


def test_reverberation_is_a_convolution_of_the_valid_samples() -> None:
    wave = torch.zeros(2, 3000)
    wave[0, 100], wave[1, 500] = 1.0, 2.0
    lengths = torch.tensor([3000, 2000])
    wet = reverberate(wave, lengths, rt60=0.1, seed=5)
    room = impulse_responses(2, 0.1, seed=5)
    assert not wet[1, 2000:].any()
    expected = torch.zeros(3000)
    expected[100 : 100 + 1600] = room[0]
    assert torch.allclose(wet[0], expected / expected.norm(), atol=1e-5)
    assert float(wet[1].square().sum()) == pytest.approx(4.0, rel=1e-4)
    spoilt = wave.clone()
    spoilt[1, 2000:] = 7.0  # what stands in the padding is not heard
    assert torch.allclose(reverberate(spoilt, lengths, 0.1, seed=5), wet, atol=1e-5)
    with pytest.raises(ValueError, match="positive number of seconds"):
        reverberate(wave, lengths, 0)


def test_recordings_that_a_model_gives_no_finite_values_for_are_left_out_and_named(tmp_path: Path) -> None:
    class Broken(Levels):
        def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
            found = super().forward(wave, lengths)
            states = [torch.where(wave.amax() > 30 / SYMBOLS, torch.nan, x) for x in found.hidden]
            return Features(states, found.lengths, *states)

    items = [recording(tmp_path, str(i), [i % 7 + 1, i % 5 + 1, 3], {}) for i in range(6)]
    loud = recording(tmp_path, "loud", [31, 31, 31], {})
    whole, broken = levels_subject(), replace(levels_subject(), encoder=Broken())
    task = TASKS.get("fidelity")(TASKS.get("fidelity").Config())
    bench = Workbench(FeatureStore(tmp_path / "bank"), reference=whole)
    outcome = task.measure(broken, Recordings([*items, loud]), bench)
    assert [(row["path"], row["reason"]) for row in outcome.skipped] == [(loud.path, NOT_FINITE)]
    assert all(np.isfinite(measure.value) for measure in outcome.measures)
    assert outcome.data["splits"]["test"]["recordings"] == 6
    with pytest.raises(ValueError, match="no finite values on any"):
        task.measure(broken, Recordings([loud]), bench)


def test_models_of_other_widths_have_no_cosine(tmp_path: Path) -> None:
    items = Recordings(recording(tmp_path, str(i), [i % 7 + 1, i % 5 + 1, 3], {}) for i in range(6))
    narrow = replace(levels_subject(), dim=SYMBOLS // 2, encoder=Narrow())
    task = TASKS.get("fidelity")(TASKS.get("fidelity").Config())
    outcome = task.measure(narrow, items, Workbench(FeatureStore(tmp_path / "bank"), reference=levels_subject()))
    found = {measure.metric.name: measure.record()["value"] for measure in outcome.measures}
    assert found["cosine"] is None
    assert found["explained"] is not None


class Narrow(Levels):
    """Every other dimension."""

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        found = super().forward(wave, lengths)
        states = [x[..., ::2] for x in found.hidden]
        return Features(states, found.lengths, *states)


@pytest.mark.parametrize(("frames", "count", "want"), [(27, 45, 27), (54, 45, 54), (45, 45, 45), (22, 44, 22)])
def test_a_teacher_of_another_frame_rate_is_compared_on_the_students_frames(frames: int, count: int, want: int) -> None:
    """Moonshine (41.7 frames a second) with students of 25, 50, the same and half as many: a slow wave stays where it is."""
    time = torch.linspace(0.0, 1.0, 2 * count + 1)[1::2]  # the centres of frames
    wave = (2 * torch.pi * time).sin()[None, :, None]
    found = fidelity.alike(Features([wave, wave], None, wave, wave), frames).last
    assert found.shape[1] == want
    own = torch.linspace(0.0, 1.0, 2 * frames + 1)[1::2]
    assert (found.mean(2)[0] - (2 * torch.pi * own).sin()).abs().max() < 0.08
