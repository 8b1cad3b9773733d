"""No verb writes into the folder of a model that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sottovoce.exporting.api import export
from sottovoce.hub.folder import overlap
from sottovoce.hub.pretrained import DEMO, refuse_overlap
from sottovoce.train.api import compress, pretrain
from tests.unit.test_families import save, tiny

torch.set_num_threads(1)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save(tiny("hubert"), tmp_path / "models" / "teacher")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_overlap(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(teacher)
    (tmp_path / "linked-file").mkdir()
    (tmp_path / "linked-file" / "model.safetensors").symlink_to(teacher / "model.safetensors")
    for out in (
        "models/teacher",
        "models/teacher/new/deep",
        "models",
        "link",
        "link/new",
        "models/../models/teacher",
        "linked-file",
    ):
        assert overlap(tmp_path / out, teacher), out
        assert overlap(teacher, tmp_path / out), out
    for out in ("other", "new", "models/teacher2", "models/new"):
        assert not overlap(tmp_path / out, teacher), out
    monkeypatch.chdir(teacher)
    assert overlap(Path(), teacher)
    assert overlap(Path("new"), teacher)


def test_sources_that_are_no_folders_do_not_overlap(tmp_path: Path) -> None:
    refuse_overlap(tmp_path, ["", "facebook/hubert-base-ls960"])
    with pytest.raises(ValueError, match="overlaps the model demo"):
        refuse_overlap(DEMO / "student", ["demo"])


@pytest.mark.parametrize("place", ["", "student", ".."])
@pytest.mark.parametrize("fresh", [False, True])
def test_training_never_touches_its_teacher(teacher: Path, place: str, fresh: bool) -> None:
    before = contents(teacher.parent)
    with pytest.raises(ValueError, match="overlaps the model"):
        compress(teacher, recipe="dphubert-demo", data="nowhere", out=teacher / place, steps=2, fresh=fresh)
    with pytest.raises(ValueError, match="overlaps the model"):
        pretrain(recipe="pretrain-mini-second", data="nowhere", out=teacher / place, teacher=teacher, steps=2, fresh=fresh)
    like = [f"student.like={teacher}"]
    with pytest.raises(ValueError, match="overlaps the model"):
        compress(
            "demo", recipe="layer-to-layer-random", data="nowhere", out=teacher / place, steps=2, fresh=fresh, overrides=like
        )
    assert contents(teacher.parent) == before


def test_an_exported_file_is_not_written_beside_another_model(teacher: Path) -> None:
    before = contents(teacher)
    with pytest.raises(ValueError, match="holds another model"):
        export("demo", out=teacher)
    assert contents(teacher) == before
