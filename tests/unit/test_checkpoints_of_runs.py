"""What a run does with damaged checkpoints, and when training diverges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.train import loop
from sottovoce.train.checkpoint import Checkpoints
from sottovoce.train.track import Journal
from tests.unit.test_train import small


class Killed(BaseException):
    """Stands for the death of the process."""


def killed_at(update: int, *arguments: Any, **options: Any) -> None:
    """A run that dies in its `update`-th update; it saves after each one."""
    count, whole = 0, loop.update

    def dying(*inner: Any) -> float:
        nonlocal count
        count += 1
        if count == update:
            raise Killed
        return whole(*inner)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", dying)
        with pytest.raises(Killed):
            small(*arguments, **options)


def flip(path: Path) -> None:
    """Changes one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture(scope="module")
def undisturbed(teacher_folder: Path, speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    small(teacher_folder, speech_folder, out)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def losses(folder: Path) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [(row["stage"], row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.mark.parametrize("broken", [1, 2])
def test_damaged_checkpoints_are_noticed_and_change_nothing(
    broken: int, undisturbed: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed_at(5, teacher_folder, speech_folder, tmp_path / "s")
    listed = json.loads((tmp_path / "s/run/checkpoints.json").read_text())
    assert [entry["step"] for entry in listed] == [4, 3]
    for entry in listed[:broken]:
        flip(tmp_path / "s/run" / entry["file"])
    capfd.readouterr()
    small(teacher_folder, speech_folder, tmp_path / "s")
    said = capfd.readouterr().err
    assert said.count("is damaged") == broken
    assert ("going on from update 3" in said) == (broken == 1)
    ours, theirs = weights(tmp_path / "s"), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(tmp_path / "s") == losses(undisturbed)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "name"),
    [(flip, "cut.safetensors"), (Path.unlink, "cut.safetensors"), (zero, "cut.json"), (cut_short, "prune.safetensors")],
)
def test_a_damaged_file_of_a_finished_stage_is_noticed_and_changes_nothing(
    damage: Callable[[Path], None],
    name: str,
    undisturbed: Path,
    teacher_folder: Path,
    speech_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    killed_at(11, teacher_folder, speech_folder, tmp_path / "s")  # the third of distill's updates
    damage(tmp_path / "s/run" / name)
    capfd.readouterr()
    small(teacher_folder, speech_folder, tmp_path / "s")
    said = capfd.readouterr().err
    assert ("cut is done again" in said) == name.startswith("cut")  # prune need not be: what the cut made of it is there
    ours, theirs = weights(tmp_path / "s"), weights(undisturbed)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert losses(tmp_path / "s") == losses(undisturbed)


def test_a_changed_number_in_the_report_of_a_stage_is_noticed(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed_at(11, teacher_folder, speech_folder, tmp_path / "s")
    path = tmp_path / "s/run/cut.json"
    path.write_text(path.read_text().replace('"params": ', '"params": 1'))
    small(teacher_folder, speech_folder, tmp_path / "s")
    assert "cut is done again" in capfd.readouterr().err


def test_a_damaged_recipe_is_a_plain_message_and_a_damaged_result_is_written_again(
    undisturbed: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "s")
    record = json.loads((out / "run/result.json").read_text())
    (out / "run/result.json").write_text('{"schema": ')
    small(teacher_folder, speech_folder, out)
    assert json.loads((out / "run/result.json").read_text())["cost"] == record["cost"]
    (out / "run/recipe.yaml").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"recipe\.yaml is damaged.*--fresh"):
        small(teacher_folder, speech_folder, out)


def test_a_run_goes_on_with_another_number_of_processes(
    undisturbed: Path, teacher_folder: Path, speech_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One process goes on with what two began: two batches in an update, and the logged sums of both."""
    killed_at(5, teacher_folder, speech_folder, tmp_path / "s", ["log_every=2"])
    folder = tmp_path / "s/run"
    settings = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(settings.replace("processes: 1", "processes: 2"))
    checkpoints = Checkpoints(folder)
    saved = checkpoints.load("prune")
    assert saved is not None
    mine = saved["ranks"][0]
    ahead = {**mine, "stream": {**mine["stream"], "batch": mine["stream"]["batch"] + 2}}
    checkpoints.save({**saved, "ranks": [ahead, mine]})
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        plain = loop.update
        patch.setattr(loop, "update", lambda run, state, rate: sizes.append(state.accumulate) or plain(run, state, rate))
        small(teacher_folder, speech_folder, tmp_path / "s", ["log_every=2"])
    assert "began with 2 processes and goes on with 1" in capfd.readouterr().err
    assert sizes == [2] * 10  # of 14 updates 4 were made before
    assert (tmp_path / "s/model.safetensors").exists()


def test_a_resumed_run_logs_the_means_of_the_undisturbed_one(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    extra = ["log_every=4"]
    small(teacher_folder, speech_folder, tmp_path / "a", extra)
    killed_at(7, teacher_folder, speech_folder, tmp_path / "b", extra)
    small(teacher_folder, speech_folder, tmp_path / "b", extra)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("rate", ["1e5", "1e38"])
def test_a_run_that_diverges_leaves_no_student(rate: str, teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distill: training diverged: .*lower stages\.distill\.lr"):
        small(teacher_folder, speech_folder, tmp_path / "s", [f"stages.distill.lr={rate}", "stages.distill.warmup=0"])
    assert not (tmp_path / "s/model.safetensors").exists()
    assert not (tmp_path / "s/run/result.json").exists()


def test_updates_without_a_finite_gradient_are_counted(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = loop.optim.clip

    def one_bad(optimizer: torch.optim.Optimizer, limit: float) -> dict[str, torch.Tensor]:
        norms = whole(optimizer, limit)
        calls.append(1)
        return {**norms, "weights": torch.tensor(float("nan"))} if len(calls) == 3 else norms

    calls: list[int] = []
    monkeypatch.setattr(loop.optim, "clip", one_bad)
    small(teacher_folder, speech_folder, tmp_path / "s")
    assert "prune: 1 of 8 updates were left out" in capfd.readouterr().err
    stages = {stage["stage"]: stage for stage in json.loads((tmp_path / "s/run/result.json").read_text())["stages"]}
    assert stages["prune"]["lost_updates"] == 1
    assert "lost_updates" not in stages["distill"]


@pytest.mark.parametrize(
    ("stage", "spoil"),
    [
        ("in the second", lambda text: text[: len(text) // 2]),
        ("before the second", lambda text: ""),
        ("after the last", lambda text: "\0" * len(text)),
    ],
)
def test_rows_that_the_journal_has_lost_are_written_again(
    stage: str,
    spoil: Callable[[str], str],
    undisturbed: Path,
    teacher_folder: Path,
    speech_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if stage == "after the last":
        shutil.copytree(undisturbed, tmp_path / "s")
        (tmp_path / "s/run/result.json").unlink()
    else:
        killed_at(9 if stage == "before the second" else 12, teacher_folder, speech_folder, tmp_path / "s")
    journal = tmp_path / "s/run/metrics.jsonl"
    journal.write_text(spoil(journal.read_text()))
    capfd.readouterr()
    small(teacher_folder, speech_folder, tmp_path / "s")
    assert "rows were damaged or missing and are written again" in capfd.readouterr().err.replace("\n", " ")
    assert losses(tmp_path / "s") == losses(undisturbed)


@pytest.mark.parametrize(
    ("lines", "lost"), [('{"st\n{"stage": "prune", "step": 1}\n', 1), ("\0" * 50, 1), ('{"stage": "x"}\n{"sta', 0)]
)
def test_damaged_lines_of_a_journal_are_named_and_a_torn_end_is_not(
    lines: str, lost: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text(lines)
    journal = Journal(tmp_path)
    journal.settle({"prune": None, "x": None})
    journal.close()
    assert ("1 damaged lines of" in capfd.readouterr().err.replace("\n", " ")) == bool(lost)
    assert all(isinstance(json.loads(line), dict) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"stage": "prune", "step": 1, "phase": {}})

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="free some space"):
        checkpoints.save({"stage": "prune", "step": 2, "phase": {}})
    found = checkpoints.load("prune")
    assert found is not None
    assert found["step"] == 1
    assert not list(tmp_path.glob("*.part"))
    assert checkpoints.load("distill") is None
