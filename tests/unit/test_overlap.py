"""No verb writes into the folder of a model that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sottovoce.encoder import Encoder
from sottovoce.exporting.api import FORMATS, export
from sottovoce.hub.folder import EXPORTS, overlap
from sottovoce.hub.pretrained import SHIPPED, refuse_overlap
from sottovoce.hub.student import save_student
from sottovoce.train.api import compress, describe, pretrain, resolve
from sottovoce.train.checks import Permissions
from tests.conftest import tiny_shape
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
        refuse_overlap(SHIPPED["demo"] / "student", ["demo"])


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


def test_a_dry_run_refuses_what_the_run_would_refuse(teacher: Path, speech_folder: Path, tmp_path: Path) -> None:
    recipe = resolve("dphubert-demo", ["data.min_seconds=0.5"], 600, teacher=str(teacher))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="overlaps the model"):
        describe(recipe, "nowhere", teacher)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run of sottovoce"):
        describe(recipe, "nowhere", tmp_path / "other")
    (tmp_path / "run-before/run").mkdir(parents=True)
    (tmp_path / "run-before/run/.sottovoce").touch()
    (tmp_path / "run-before/run/recipe.yaml").write_text("seed: 17\n")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        describe(recipe, "nowhere", tmp_path / "run-before")
    plan = describe(recipe, str(speech_folder), tmp_path / "new", permissions=Permissions())
    assert "200 passes over 44 s of audio" in plan["refused"]
    assert "refused" not in describe(recipe, str(speech_folder), tmp_path / "new", permissions=Permissions(long=True))
    assert not (tmp_path / "new").exists()
    assert before.items() <= contents(tmp_path).items()


def test_what_was_exported_from_other_weights_goes_when_the_student_is_written_anew(tmp_path: Path) -> None:
    def write(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return save_student(tmp_path, Encoder(tiny_shape()).reset_parameters(), normalize=False, teacher="demo")

    assert write(1) == []
    (tmp_path / "model.onnx").write_bytes(b"made with other tools")
    assert write(2) == []
    (tmp_path / "model.json").write_text('{"sottovoce": "1.0", "source": "student"}')
    assert write(2) == []  # the same weights
    assert write(3) == ["model.onnx", "model.json"]
    assert {path.name for path in tmp_path.glob("model.*")} == {"model.safetensors"}
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".sottovoce")]


def test_every_format_writes_files_that_are_known_to_go() -> None:
    assert {form.FILE for form in FORMATS.values()} <= set(EXPORTS)


def test_an_exported_file_is_not_written_beside_another_model(teacher: Path) -> None:
    before = contents(teacher)
    with pytest.raises(ValueError, match="holds another model"):
        export("demo", out=teacher)
    assert contents(teacher) == before
