"""Subjects, banks of features, the probe and its sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import SeamlessM4TFeatureExtractor

from sottovoce.core.types import Batch
from sottovoce.data import open_source
from sottovoce.encoder import Encoder
from sottovoce.evaluation.features.store import INDEX, ROWS, FeatureStore, Piece, encode
from sottovoce.evaluation.heads.probe import Examples, WeightedSum, batches, fit, sweep, without_denormals
from sottovoce.evaluation.heads.schedule import Schedule
from sottovoce.evaluation.subjects.controls import CONTROLS
from sottovoce.evaluation.subjects.sources import open_subject


@pytest.fixture
def pieces(speech_folder: Path) -> list[Piece]:
    return [Piece(item) for item in open_source(speech_folder)]


class TestSubject:
    def test_states_are_those_of_transformers_in_number_and_order(self, teacher_folder: Path) -> None:
        subject = open_subject(str(teacher_folder))
        states, frames = subject.states(Batch(torch.randn(2, 8000)))
        features = subject.features(Batch(torch.randn(2, 8000)))
        assert states.shape == (2, 24, subject.layers, subject.dim)
        assert frames.tolist() == [24, 24]
        assert subject.layers == len(features.hidden)
        assert subject.role == "teacher"
        assert subject.frame_rate == 50

    @pytest.mark.parametrize("name", CONTROLS)
    def test_controls_ignore_padding(self, name: str) -> None:
        subject, wave = open_subject(name), torch.randn(1, 6000)
        padded = torch.cat([wave, torch.randn(1, 3000)], dim=1)
        alone, frames = subject.states(Batch(wave))
        beside, own = subject.states(Batch(padded, torch.tensor([6000])))
        assert frames.tolist() == own.tolist()
        torch.testing.assert_close(beside[:, : int(own)], alone, atol=1e-5, rtol=1e-5)
        assert subject.role == "control"

    def test_fbank_is_the_benchmarks(self) -> None:
        """Kaldi's filter bank as transformers computes it, then differences and norm by numpy, each as SUPERB's baseline defines them."""
        wave = torch.randn(1, 16_000) * torch.linspace(0.01, 0.3, 16_000)
        extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=1)
        energies = extractor._extract_fbank_features(wave[0].numpy())  # of 16-bit numbers: an offset, which the norm takes away

        def differences(x: np.ndarray) -> np.ndarray:
            held = np.concatenate([x[:1], x[:1], x, x[-1:], x[-1:]])
            return (held[3:-1] - held[1:-3] + 2 * (held[4:] - held[:-4])) / 10

        first = differences(energies)
        expected = np.concatenate([energies, first, differences(first)], axis=1)
        expected = (expected - expected.mean(0)) / expected.std(0, ddof=1)
        subject = open_subject("fbank")
        found, frames = subject.states(Batch(wave))
        assert (subject.frame_rate, frames.tolist()) == (100, [98])
        np.testing.assert_allclose(found[0, :, 0].numpy(), expected, atol=2e-3)

    def test_fbank_does_not_know_the_level(self) -> None:
        wave = torch.randn(1, 16_000) * torch.linspace(0.1, 1, 16_000)
        (loud, quiet), (level, low) = (
            [open_subject(name).states(Batch(x))[0] for x in (wave, wave / 8)] for name in ("fbank", "log-mel")
        )
        torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=1e-3)
        assert (level - low).abs().max() > 2

    def test_untrained_has_the_shape_and_a_seed(self, teacher_folder: Path) -> None:
        one, same, two = (open_subject(f"untrained:{teacher_folder}{seed}") for seed in ("", "#1", "#2"))
        assert one.fingerprint == same.fingerprint != two.fingerprint
        assert one.params == open_subject(str(teacher_folder)).params
        with pytest.raises(ValueError, match="whole number"):
            open_subject(f"untrained:{teacher_folder}#x")

    def test_a_changed_weight_is_another_fingerprint(self, teacher_folder: Path) -> None:
        from sottovoce.evaluation.subjects.sources import fingerprint

        subject = open_subject(str(teacher_folder))
        assert isinstance(subject.encoder, Encoder)
        before = fingerprint(subject.encoder, False)
        with torch.no_grad():
            next(subject.encoder.parameters()).add_(1e-3)
        assert fingerprint(subject.encoder, False) != before
        assert fingerprint(subject.encoder, True) != fingerprint(subject.encoder, False)


class TestFeatures:
    def test_kept_features_are_those_computed_on_the_spot(
        self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path
    ) -> None:
        subject = open_subject(str(teacher_folder))
        kept = FeatureStore(tmp_path).get(subject, pieces, "frames")
        live = FeatureStore(tmp_path, limit_gb=0).get(subject, pieces, "frames")
        pooled = FeatureStore(tmp_path).get(subject, pieces, "pooled")
        for i in (0, 7, 23):
            torch.testing.assert_close(kept.item(i), live.item(i), rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(pooled.item(i)[0], live.item(i).mean(0), rtol=2e-3, atol=2e-3)
        rows = kept.batch([3, 5])
        torch.testing.assert_close(rows.values.float() * rows.unit[:, None], torch.cat([kept.item(3), kept.item(5)]))
        assert rows.lengths.tolist() == [len(kept.item(3)), len(kept.item(5))]

    def test_nothing_is_computed_twice(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        subject, store, done = open_subject(str(teacher_folder)), FeatureStore(tmp_path), []
        store.get(subject, pieces[:10], "pooled", lambda i, n: done.append((i, n)))
        store.get(subject, pieces, "pooled", lambda i, n: done.append((i, n)))
        assert done[9] == (10, 10)
        assert done[-1] == (14, 14)

    def test_a_file_that_changed_is_computed_anew(self, teacher_folder: Path, tmp_path: Path) -> None:
        subject, path = open_subject(str(teacher_folder)), tmp_path / "a.wav"
        found = []
        for level in (0.1, 0.3):
            soundfile.write(path, level * np.sin(np.arange(9000 + int(1000 * level)) / 5), 16_000)
            store = FeatureStore(tmp_path / "bank")
            found.append(store.get(subject, [Piece(item) for item in open_source(path)], "pooled").item(0))
        assert not torch.equal(*found)

    def test_what_cannot_be_read_is_left_out_and_listed(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"RIFF nothing")
        asked = [pieces[0], *(Piece(item) for item in open_source(broken)), pieces[1]]
        for limit in (1.0, 0):
            found = FeatureStore(tmp_path / "bank", limit).get(open_subject(str(teacher_folder)), asked, "frames")
            assert found.usable == [0, 2]
            assert [row["path"] for row in found.skipped] == [str(broken)]

    def test_survives_a_kill_while_writing(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        """Rows without an index are a run that died; an index without rows is a damaged disk. Both end in right features."""
        subject = open_subject(str(teacher_folder))
        want = FeatureStore(tmp_path).get(subject, pieces, "pooled").batch([0, 1, 2]).values
        bank = next(path for path in tmp_path.iterdir() if path.is_dir())
        with open(bank / ROWS, "ab") as file:
            file.write(b"half a row")
        for damage in (lambda: None, lambda: (bank / INDEX).unlink(), lambda: (bank / ROWS).write_bytes(b"")):
            damage()
            torch.testing.assert_close(FeatureStore(tmp_path).get(subject, pieces, "pooled").batch([0, 1, 2]).values, want)

    def test_room_is_made_by_the_longest_unused_bank(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        size = 0.0
        for seed in (1, 2, 3):
            subject = open_subject(f"untrained:{teacher_folder}#{seed}")
            store = FeatureStore(tmp_path, limit_gb=2.5 * size if size else 1.0)
            store.get(subject, pieces, "frames")
            size = size or sum(path.stat().st_size for path in tmp_path.rglob(ROWS)) / 1e9
        left = {path.parent.name.split("-")[0] for path in tmp_path.rglob(ROWS)}
        assert left == {open_subject(f"untrained:{teacher_folder}#{seed}").fingerprint for seed in (2, 3)}

    def test_a_bank_that_is_deleted_meanwhile_can_still_be_read(
        self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path
    ) -> None:
        found = FeatureStore(tmp_path).get(open_subject(str(teacher_folder)), pieces, "frames")
        shutil.rmtree(tmp_path)
        assert found.item(3).abs().sum() > 0

    def test_what_does_not_fit_is_computed_when_asked_for(
        self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path
    ) -> None:
        subject = open_subject(str(teacher_folder))
        found = FeatureStore(tmp_path, limit_gb=1e-4).get(subject, pieces, "frames")
        live = FeatureStore(tmp_path, limit_gb=0).get(subject, pieces, "frames")
        assert len(found) == len(pieces)
        assert sum(path.stat().st_size for path in tmp_path.rglob(ROWS)) <= 1e5
        torch.testing.assert_close(found.item(23), live.item(23), rtol=2e-3, atol=2e-3)

    def test_large_activations_keep_their_precision(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        subject = open_subject(str(teacher_folder))
        assert isinstance(subject.encoder, Encoder)
        with torch.no_grad():
            for parameter in list(subject.encoder.layers[-1].parameters())[-2:]:
                parameter.mul_(1e6)
        found = FeatureStore(tmp_path).get(subject, pieces[:4], "frames").item(0)
        want = next(encode(subject, pieces[:1], "frames"))[1].states
        assert float(want.abs().max()) > 65_504
        torch.testing.assert_close(found, want, rtol=2e-3, atol=float(want.abs().max()) * 1e-3)


def test_denormals_are_zero_inside_and_as_before_outside() -> None:
    denormal = lambda: bool(torch.tensor(1e-39) * 1 != 0)  # noqa: E731
    assert denormal()
    with without_denormals():
        assert not denormal()
        with without_denormals():
            assert not denormal()
        assert not denormal()
    assert denormal()
    with pytest.raises(ZeroDivisionError):
        without_denormals()(lambda: 1 / 0)()
    assert denormal()


class TestProbe:
    def test_weighted_sum_standardises_and_mixes(self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path) -> None:
        subject = open_subject(str(teacher_folder))
        features = FeatureStore(tmp_path).get(subject, pieces, "frames")
        module = WeightedSum(subject.layers, subject.dim)
        rows, alone = features.batch([0, 1]), features.item(0)
        torch.testing.assert_close(module(rows)[0, : len(alone)], alone.mean(1))
        summed = module(rows)
        assert summed.shape[1] == int(rows.lengths.max())
        assert not summed[int(rows.lengths.argmin()), int(rows.lengths.min()) :].any()
        summed.square().sum().backward()
        weights = torch.zeros(subject.layers, requires_grad=True)
        plain = torch.cat([features.item(0), features.item(1)])
        torch.einsum("nld,l->nd", plain, weights.softmax(0)).square().sum().backward()
        torch.testing.assert_close(module.weights.grad, weights.grad, rtol=1e-3, atol=1e-2)
        module.fit(features)
        with torch.no_grad():
            module.weights.copy_(torch.tensor([50.0, 0, 0, 0]))
        everything = torch.cat([module(features.batch([i]))[0] for i in range(len(features))])
        assert float(everything.detach().mean().abs()) < 0.01
        assert 0.9 < float(everything.detach().std()) < 1.1
        assert sum(module.shares()) == pytest.approx(1)

    def test_batches_hold_every_item_once_an_epoch(self) -> None:
        frames = np.random.default_rng(0).integers(10, 200, 50).tolist()
        for pooled in (True, False):
            order = batches(frames, 8, seed=1, pooled=pooled)
            epoch = [i for _ in range(7) for i in next(order)]
            assert sorted(epoch) == list(range(50))

    def test_the_sweep_keeps_the_best_rate_and_records_every_trial(
        self, teacher_folder: Path, pieces: list[Piece], tmp_path: Path
    ) -> None:
        features = FeatureStore(tmp_path).get(open_subject(str(teacher_folder)), pieces, "pooled")
        train = Examples(features, [0.0] * len(features), [""] * len(features))
        training = Schedule(lrs=(1e-6, 1e-1), steps=4, batch=4, evaluate_every=2, patience=1)

        class Zero(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.line = torch.nn.Linear(features.subject.dim, 1)

            def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
                return self.line(x).square().mean()

        def one(seed: int, lr: float):  # type: ignore[no-untyped-def]
            judge = lambda probe: -float(probe(features.batch(list(range(8)))))  # noqa: E731
            return fit(Zero, lambda out, *_: out, judge, train, training, seed, lr, torch.device("cpu"))

        probes, trials = sweep(one, training.lrs, (1, 2, 3))
        assert list(probes) == [1, 2, 3]
        assert [(trial["seed"], trial["lr"], trial["chosen"]) for trial in trials] == [
            (1, 1e-6, False), (1, 1e-1, True), (2, 1e-1, True), (3, 1e-1, True)
        ]  # fmt: skip
        again, _ = sweep(one, training.lrs, (1, 2, 3))
        assert all(torch.equal(a.sum.weights, b.sum.weights) for a, b in zip(probes.values(), again.values(), strict=True))
