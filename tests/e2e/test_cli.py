"""The command as a user types it, from teacher to loaded student."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sottovoce
from sottovoce import cli

SHORT = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2"]


def run(*arguments: object, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "140", **variables}
    command = [sys.executable, "-m", "sottovoce", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=170)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_compress_inspect_and_load(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    done = run(
        "compress", teacher_folder, "--data", speech_folder, "--out", out, "--budget", "macs", "--keep", 0.5, "--steps", 9, *SHORT
    )
    assert f"student in {out}" in done.stdout
    assert "of the teacher's MACs" in done.stdout
    assert "5 s of audio take: student" in done.stdout
    assert "of the variance of the teacher's layers is explained" in done.stdout
    assert f"next:  sottovoce evaluate {out}" in done.stdout
    assert "left" in done.stderr  # plain progress lines with the time left

    shape = json.loads(run("inspect", out, "--json").stdout)
    whole = json.loads(run("inspect", teacher_folder, "--json").stdout)
    assert shape["total"]["macs_per_s"] == pytest.approx(0.5 * whole["total"]["macs_per_s"], rel=0.01)
    assert "layer 3 feed-forward" in run("inspect", out).stdout

    features = sottovoce.load(out)(torch.randn(2, 8000))
    assert features.hidden[-1].shape == (2, 24, 32)
    mapped = sottovoce.load(out, space="teacher")(torch.randn(1, 8000))
    assert mapped.hidden[3].shape == (1, 24, 32)

    again = run(
        "compress", teacher_folder, "--data", speech_folder, "--out", out, "--budget", "macs", "--keep", 0.5, "--steps", 9, *SHORT
    )
    assert "is finished" in again.stderr


def test_dry_run_trains_nothing_and_shows_the_plan(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    command = ["compress", teacher_folder, "--data", speech_folder, "--out", tmp_path / "s", "--keep", 0.3, "--dry-run"]
    planned = run(*command, status=2)  # the command without --dry-run would be refused
    assert "75,000 passes over" in planned.stderr
    lines = planned.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["teacher", "student", "learns", "stages", "audio", "memory"]
    assert "30% of the teacher's params" in lines[1]
    assert "75,000 updates" in lines[3]
    found = json.loads(run(*command, "--json", "--schedule", "recipe").stdout)
    assert found["recipe"]["pruning"]["budget"]["keep"] == 0.3
    assert found["plan"] == {"conv": 112, "head": 12, "ffn": 192}
    assert found["student"]["params"] == pytest.approx(0.3 * found["teacher"]["params"])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demoo", "--data", "{speech}"], "demoo"),
        (["{teacher}", "--data", "/nowhere"], "/nowhere"),
        (["{teacher}", "--data", "{empty}"], "no audio"),
        (["{teacher}", "--data", "{speech}", "--recipe", "dphubrt"], "did you mean 'dphubert'"),
        (["{teacher}", "--data", "{speech}", "sead=3"], "did you mean 'seed'"),
        (["seed=3", "{teacher}", "--data", "{speech}"], "write: sottovoce compress TEACHER"),
        (["{teacher}", "--data", "{speech}", "--keep", "1.5"], "above 0 and at most 1"),
        (["{teacher}", "--data", "{speech}", "--keep", "0.001", "--steps", "9"], "cannot keep only 0.001"),
        (["{teacher}", "--data", "{speech}"], "passes over"),
        (["{teacher}", "--data", "{speech}", "--schedule", "superb"], "--schedule is 'recipe' or left out"),
        (["{teacher}", "--data", "{speech}", "--recipe", "fithubert", "--steps", "9"], "or give --allow-larger"),
        (["{teacher}", "--data", "{speech}", "--device", "cuda:7"], "cuda:7"),
    ],
)
def test_a_users_mistake_is_one_plain_message(
    arguments: list[str],
    says: str,
    teacher_folder: Path,
    speech_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [text.format(teacher=teacher_folder, speech=speech_folder, empty=tmp_path / "empty") for text in arguments]
    monkeypatch.setattr(sys, "argv", ["sottovoce", "compress", *filled, "--out", str(tmp_path / "s")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sottovoce: ")
    assert says in last


def test_a_schedule_that_does_not_suit_the_data_is_refused_before_anything_is_written(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    """75,000 updates on seconds of audio: the message says what they would mean, and the proposed schedule is accepted."""
    command = ["compress", teacher_folder, "--data", speech_folder, "--out", tmp_path / "s", *SHORT]
    refused = run(*command, status=2).stderr.strip().splitlines()[-1]
    assert "makes 75,000 updates" in refused
    assert "on this machine; give --steps 600 for a schedule that suits the data, or --schedule recipe for this one" in refused
    assert not (tmp_path / "s/run/recipe.yaml").exists()


def test_json_has_the_latency(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    command = ["compress", teacher_folder, "--data", speech_folder, "--steps", 3, *SHORT, "--out", tmp_path / "a", "--json"]
    printed = json.loads(run(*command).stdout)
    assert printed["met"] is True
    assert printed["latency_5s"].keys() == {"student", "teacher"}


@pytest.mark.parametrize("kind", ["teachers", "recipes", "objectives", "students", "tasks"])
def test_list_names_everything_with_a_summary(kind: str) -> None:
    lines = CliRunner().invoke(cli.app, ["list", kind]).stdout.splitlines()
    assert lines
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_every_summary_of_a_recipe_is_a_whole_sentence() -> None:
    summaries = json.loads(CliRunner().invoke(cli.app, ["list", "recipes", "--json"]).stdout)
    assert all(text.endswith(".") for text in summaries.values())


@pytest.mark.parametrize("name", ["demo", "demo-quality"])
def test_a_student_cannot_take_the_name_of_a_built_in_model(name: str) -> None:
    refused = run("compress", "demo", "--data", "demo", "--out", name, status=2).stderr
    assert "names a built-in model" in refused
    assert not Path(name).exists()


def test_list_alone_lists_the_kinds() -> None:
    listed = CliRunner().invoke(cli.app, ["list"]).stdout
    assert all(f"\n{kind.value} " in f"\n{listed}" for kind in cli.listing.Kind)


VERBS = ["compress", "pretrain", "evaluate", "compare", "report", "inspect", "merge", "bench", "export", "list", "demo"]


def test_help_lists_the_verbs_as_a_user_comes_to_need_them() -> None:
    listed = [line.split()[1] for line in run("--help").stdout.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert listed == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb: str) -> None:
    assert f"sottovoce {verb} " in CliRunner().invoke(cli.app, [verb, "--help"]).stdout.partition("Example")[2]


def test_a_new_file_is_a_new_verb(tmp_path: Path) -> None:
    shutil.copytree(Path(sottovoce.__file__).parent, tmp_path / "sottovoce", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sottovoce" / "cli" / "greet.py").write_text(
        "from sottovoce.cli.base import app, say\n\n\n@app.command()\ndef greet() -> None:\n    say('good day')\n"
    )
    assert run("greet", PYTHONPATH=str(tmp_path)).stdout == "good day\n"


def test_help_starts_without_what_is_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sottovoce import cli\n"
        "assert CliRunner().invoke(cli.app, ['compress', '--help']).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'numpy', 'yaml', 'lhotse'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert CliRunner().invoke(cli.app, ["--version"]).stdout.startswith("sottovoce 0")
