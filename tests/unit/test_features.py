"""What decides a kept feature, what happens when they do not all fit, and models that pad everything."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.core.types import Batch
from sottovoce.data import Recording, open_source
from sottovoce.data.mixtures import Mixture, MixturePart
from sottovoce.evaluation.features import store as module
from sottovoce.evaluation.features.bank import ROWS
from sottovoce.evaluation.features.pieces import Piece
from sottovoce.evaluation.features.store import FeatureStore, moments
from sottovoce.evaluation.subjects.sources import fingerprint, open_subject
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.families.generic import GenericEncoder


@pytest.fixture
def pieces(speech_folder: Path) -> list[Piece]:
    return [Piece(item) for item in open_source(speech_folder)]


@pytest.fixture
def subject(teacher_folder: Path) -> Subject:
    return open_subject(str(teacher_folder))


def tone(level: float, seconds: float = 1.0) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, level * np.sin(np.arange(round(seconds * 16_000)) / 5), 16_000, format="WAV")
    return stream.getvalue()


class TestKeys:
    def test_of_plain_files_are_those_of_before(self, tmp_path: Path) -> None:
        """Or every bank there is would have to be filled again."""
        (tmp_path / "a.wav").write_bytes(b"")
        os.utime(tmp_path / "a.wav", ns=(5, 7))
        import hashlib

        parts = ("a", str(tmp_path / "a.wav"), 0.0, 2.0, None, 0.5, 1.0, (0, 7))
        was = hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        assert Piece(Recording("a", str(tmp_path / "a.wav"), duration=2.0), 0.5, 1.0).key == was

    def test_see_that_a_shard_was_written_again(self, tmp_path: Path) -> None:
        def shard(level: float) -> str:
            with tarfile.open(tmp_path / "recording.000000.tar", "w") as tar:
                data = tone(level)
                member = tarfile.TarInfo("u1.wav")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            row = {"id": "u1", "start": 0, "duration": 1.0, "recording": {"id": "r"}}
            (tmp_path / "cuts.000000.jsonl").write_text(json.dumps(row) + "\n")
            (item,) = open_source(tmp_path)
            return Piece(item).key

        first = shard(0.1)
        assert Piece(open_source(tmp_path)[0]).key == first
        assert shard(0.3) != first

    def test_see_that_a_cut_was_edited(self, tmp_path: Path) -> None:
        pytest.importorskip("lhotse", reason="lhotse, or a package that it imports, is missing")
        (tmp_path / "x.wav").write_bytes(tone(0.1, 3.0))
        source = {"type": "file", "channels": [0], "source": str(tmp_path / "x.wav")}
        recording = {"id": "x", "sources": [source], "sampling_rate": 16_000, "num_samples": 48_000, "duration": 3.0}

        def cut(start: float, offset: float = 0.0) -> str:
            inner = {"id": "one", "start": start, "duration": 1.0, "channel": 0, "supervisions": [], "recording": recording}
            track = {"cut": {**inner, "type": "MonoCut"}, "type": "MonoCut", "offset": offset}
            (tmp_path / "cuts.jsonl").write_text(json.dumps({"id": "mix", "type": "MixedCut", "tracks": [track]}) + "\n")
            (item,) = open_source(tmp_path / "cuts.jsonl")
            return Piece(item).key

        first = cut(0.0)
        assert cut(0.0) == first
        assert cut(1.0) != first
        (tmp_path / "x.wav").write_bytes(tone(0.3, 3.0))
        os.utime(tmp_path / "x.wav", ns=(5, 7))
        assert cut(0.0) != first

    def test_see_every_source_of_a_conversation(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("a.wav", "b.wav")]
        for path in paths:
            path.write_bytes(tone(0.1))

        def key() -> str:
            parts = tuple(MixturePart(Recording(path.name, str(path)), 0, 1, 0, 1) for path in paths)
            return Piece(Recording("mix", str(paths[0]), duration=1.0, loader=Mixture(parts, 1.0))).key

        first = key()
        assert key() == first
        paths[1].write_bytes(tone(0.3, 1.5))
        assert key() != first

    def test_a_file_that_can_be_read_again_is_no_longer_listed(
        self, subject: Subject, pieces: list[Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that was away, a right that was not given: neither the file's size nor its time of change tells."""
        from sottovoce.data.decode import BadAudio

        def refuse(*given: object) -> None:
            raise BadAudio("permission denied")

        with monkeypatch.context() as patch:
            patch.setattr("sottovoce.evaluation.features.pieces.read_audio", refuse)
            for _ in range(2):
                found = FeatureStore(tmp_path).get(subject, pieces[:3], "pooled")
                assert [row["reason"] for row in found.skipped] == ["permission denied"] * 3
        assert FeatureStore(tmp_path).get(subject, pieces[:3], "pooled").usable == [0, 1, 2]


class TestLimit:
    @pytest.fixture
    def encoded(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many recordings each pass of the model had."""
        sizes: list[int] = []
        real = Subject.states

        def states(self: Subject, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            sizes.append(len(batch.wave))
            return real(self, batch)

        monkeypatch.setattr(Subject, "states", states)
        return sizes

    def test_a_batch_that_is_not_kept_is_computed_together(
        self, subject: Subject, pieces: list[Piece], tmp_path: Path, encoded: list[int]
    ) -> None:
        kept = FeatureStore(tmp_path).get(subject, pieces, "frames")
        live = FeatureStore(tmp_path, limit_gb=0).get(subject, pieces, "frames")
        encoded.clear()
        items = [5, 2, 9, 3]
        rows = live.batch(items)
        assert len(encoded) < len(items)
        assert sum(encoded) == len(items)
        want = kept.batch(items)
        assert rows.lengths.tolist() == want.lengths.tolist()
        torch.testing.assert_close(rows.values, want.values.float() * want.unit[:, None], rtol=2e-3, atol=2e-3)
        encoded.clear()
        mean, _ = moments([live], 24)
        assert len(encoded) < 24
        torch.testing.assert_close(mean, moments([kept], 24)[0], rtol=2e-3, atol=2e-3)

    def test_what_fits_is_kept_and_only_the_rest_is_computed(
        self, subject: Subject, pieces: list[Piece], tmp_path: Path, encoded: list[int]
    ) -> None:
        whole = FeatureStore(tmp_path / "all").get(subject, pieces, "frames")
        assert whole.bank is not None
        limit = whole.bank.size / 2e9
        encoded.clear()
        store = FeatureStore(tmp_path / "half", limit)
        half = store.get(subject, pieces, "frames")
        kept = [entry.begin >= 0 for entry in half.entries]
        assert 5 < sum(kept) < 20
        assert sum(encoded) == 24  # once, also those that will not fit: they may not be usable
        assert sum(path.stat().st_size for path in (tmp_path / "half").rglob(ROWS)) <= limit * 1e9
        encoded.clear()
        again = FeatureStore(tmp_path / "half", limit).get(subject, pieces, "frames")
        assert not encoded
        items = list(range(24))
        rows, want = again.batch(items), whole.batch(items)
        assert sum(encoded) == 24 - sum(kept)
        torch.testing.assert_close(rows.values, want.values.float() * want.unit[:, None], rtol=2e-3, atol=2e-3)
        larger = FeatureStore(tmp_path / "half", 1.0).get(subject, pieces, "frames")
        assert all(entry.begin >= 0 for entry in larger.entries)

    def test_it_is_said_once_and_what_would_hold_all(self, subject: Subject, speech_folder: Path, tmp_path: Path) -> None:
        from sottovoce.data.durations import timed

        said: list[str] = []
        pieces = [Piece(item) for item in timed(open_source(speech_folder))]
        whole = FeatureStore(tmp_path / "all").get(subject, pieces, "frames")
        assert whole.bank is not None

        def told(part: Sequence[Piece], limit: float, where: str = "x") -> list[str]:
            FeatureStore(tmp_path / where, limit).foresee(subject, part, "frames", said.append)
            return said

        assert told(pieces, 0) == []
        assert told(pieces, 1.0) == []
        limit = whole.bank.size / 3e9
        (text,) = told(pieces, limit)
        assert f"--cache-gb is {limit:.3g}" in text
        advised = float(text.rpartition("--cache-gb ")[2].split()[0])
        assert whole.bank.size / 1e9 < advised < 1.3 * whole.bank.size / 1e9
        assert len(told(pieces[:20], limit)) == 1
        assert len(told(pieces, limit, "another bank")) == 2
        assert told(pieces, advised)[2:] == []

    def test_lengths_that_are_not_known_are_taken_for_usual_ones(self) -> None:
        assert [module._rounded_up(value) for value in (12.1, 0.0123, 99.5, 3.0)] == ["13", "0.013", "100", "3"]
        piece = Piece(Recording("a", "a", duration=9.0), 2.0, 8.0)
        assert piece.length == 7.0
        assert Piece(Recording("a", "a"), 0.0, 8.0).length == 8.0
        assert Piece(Recording("a", "a")).length is None


class TestModelsThatPad:
    @pytest.fixture(scope="class")
    def whisper(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import transformers

        folder = tmp_path_factory.mktemp("whisper")
        torch.manual_seed(0)
        shape = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
        shape |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 32, "num_mel_bins": 20}
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        transformers.WhisperModel(transformers.WhisperConfig(**shape, **ids)).save_pretrained(folder)
        transformers.WhisperFeatureExtractor(feature_size=20).save_pretrained(folder)
        return folder

    def test_have_a_frame_rate_and_frames_of_the_audio_alone(self, whisper: Path) -> None:
        subject, wave = open_subject(str(whisper)), torch.randn(2, 32_000)
        assert subject.frame_rate == 50
        alone, frames = subject.states(Batch(wave))
        assert alone.shape[1] == 100
        assert frames.tolist() == [100, 100]
        beside, own = subject.states(Batch(wave, torch.tensor([32_000, 16_000])))
        assert own.tolist() == [100, 50]
        torch.testing.assert_close(beside[0], alone[0])
        assert subject.features(Batch(wave)).last.shape[1] == 100


def test_another_extractor_is_another_model() -> None:
    """Of a model that runs inside transformers, the extractor decides what it says, too."""
    from transformers import WhisperFeatureExtractor

    model = torch.nn.Linear(1, 1)
    digests = [fingerprint(GenericEncoder(model, WhisperFeatureExtractor(20, n_fft=size)), False) for size in (400, 400, 320)]
    assert digests[0] == digests[1] != digests[2]
