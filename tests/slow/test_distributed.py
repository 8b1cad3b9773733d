"""Two processes under torchrun make one student and write one journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_torchrun_makes_one_student(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sottovoce", "compress"]
    command += [
        str(teacher_folder),
        "--data",
        str(speech_folder),
        "--out",
        str(tmp_path / "s"),
        "--keep",
        "0.5",
        "--device",
        "cpu",
    ]
    options = [
        "--steps",
        "12",
        "data.seconds_per_batch=4",
        "data.min_seconds=0.5",
        "data.workers=0",
        "log_every=1",
        "save_minutes=0",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student in ") == 1
    rows = [json.loads(line) for line in (tmp_path / "s/run/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["stage"] == "prune" and "loss" in row]
    assert steps == list(range(1, 9))  # written once, by the main process
