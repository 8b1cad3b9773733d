"""Audio that is made is kept for the next model: the same samples, within a limit, and never a reason to fail."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from sottovoce.data import Recording
from sottovoce.evaluation.features.generated import MadeAudio
from sottovoce.evaluation.features.pieces import Piece
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.subjects.sources import open_subject


@dataclass
class Tone:
    """A loader that counts how often it is asked. The recording's id and `pitch` decide what it gives."""

    pitch: float = 200.0
    asked: list[float] = field(default_factory=list)

    def __call__(self, start: float, seconds: float) -> tuple[np.ndarray, int]:
        self.asked.append(start)
        return np.sin(np.arange(16_000, dtype=np.float32) * self.pitch / 16_000)[:, None], 16_000

    def identity(self) -> str:
        return str(self.pitch)


def piece(loader: Tone, name: str = "a") -> Piece:
    return Piece(Recording(name, name, duration=1.0, loader=loader))


def test_a_second_model_hears_the_same_samples_without_making_them(teacher_folder: Path, tmp_path: Path) -> None:
    loader = Tone()
    kinds = ("frames", "pooled")
    found = [FeatureStore(tmp_path).get(open_subject(str(teacher_folder)), [piece(loader)], kind) for kind in kinds]  # type: ignore[arg-type]
    assert len(loader.asked) == 1
    torch.testing.assert_close(found[0].item(0).mean(0), found[1].item(0)[0], rtol=2e-3, atol=2e-3)


def test_what_decides_the_audio_decides_what_is_found(tmp_path: Path) -> None:
    made, low, high = MadeAudio(tmp_path, 1e6), Tone(200.0), Tone(400.0)
    first, second = made.read(piece(low)), made.read(piece(high))
    assert not torch.equal(first, second)
    assert torch.equal(made.read(piece(high)), second)
    assert torch.equal(made.read(piece(high)), piece(high).read())
    assert torch.equal(made.read(piece(low)), first)


def test_audio_that_cannot_be_told_apart_is_not_kept(tmp_path: Path) -> None:
    class Plain:
        def __call__(self, start: float, seconds: float) -> tuple[np.ndarray, int]:
            return np.ones((1600, 1), np.float32), 16_000

    MadeAudio(tmp_path / "made", 1e6).read(Piece(Recording("a", "a", duration=0.1, loader=Plain())))
    assert not (tmp_path / "made").exists()


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    made = MadeAudio(tmp_path, 4 * 64_000 + 2_000)
    pieces = [piece(Tone(), str(i)) for i in range(5)]
    for i, each in enumerate(pieces[:4]):
        made.read(each)
        os.utime(tmp_path / f"{each.key}.npy", (i, i))
    MadeAudio(tmp_path, made.limit).read(pieces[0])  # used now
    made.read(pieces[4])
    kept = [(tmp_path / f"{each.key}.npy").exists() for each in pieces]
    assert (kept[0], kept[1], kept[4]) == (True, False, True)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= made.limit


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY garbage"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes) -> None:
    made, loader = MadeAudio(tmp_path, 1e6), Tone()
    wave = made.read(piece(loader))
    (tmp_path / f"{piece(loader).key}.npy").write_bytes(damage)
    assert torch.equal(made.read(piece(loader)), wave)
    assert torch.equal(made.read(piece(loader)), wave)
    assert len(loader.asked) == 2


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(MadeAudio(tmp_path / "file" / "made", 1e6).read(piece(Tone()))) == 16_000
