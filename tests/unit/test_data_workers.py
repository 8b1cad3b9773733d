"""Workers end with the process that started them, whatever ends it; leftovers of killed processes go; a full disk costs a cache only."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.data import demo, workers

PARENT = """
import os, sys, threading, time
from sottovoce.data import DataConfig, open_data, stream

def hang(job):
    if job.index:
        time.sleep(1e6)
    return real(job)

if __name__ == "__main__":
    real = stream.decode
    stream.decode = hang if sys.argv[2] == "hang" else real
    data = open_data(sys.argv[1], DataConfig(seconds_per_batch=2, min_seconds=0.5, workers=2))
    next(data.train)
    print(*(worker.pid for worker in data.train._source._workers), flush=True)
    time.sleep(float(sys.argv[3]))
    data.train.close()
"""


def gone(pid: int, within: float = 15.0) -> bool:
    """Whether the process ends in time; a zombie has ended."""
    for _ in range(round(within / 0.1)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / "audio").mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"audio/{number}.wav", np.random.default_rng(number).uniform(-0.1, 0.1, 32_000), 16_000)
    return tmp_path / "audio"


def parent(corpus: Path, mode: str, seconds: float) -> tuple[subprocess.Popen[str], list[int]]:
    script = corpus.parent / "parent.py"
    script.write_text(PARENT)
    made = subprocess.Popen([sys.executable, str(script), str(corpus), mode, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    return made, [int(pid) for pid in made.stdout.readline().split()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("mode", ["work", "hang"])
def test_workers_end_with_a_killed_parent(corpus: Path, mode: str) -> None:
    process, pids = parent(corpus, mode, 1e6)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # is for the parent
    process.kill()
    process.wait()
    assert all(map(gone, pids))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_workers_that_hang_do_not_keep_the_parent(corpus: Path) -> None:
    process, pids = parent(corpus, "hang", 0)
    assert process.wait(timeout=60) == 0
    assert all(map(gone, pids))


def test_a_process_that_hangs_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; from sottovoce.data import workers; workers.PATIENCE = 0.2; workers.end_soon(); time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 130


def test_leftovers_of_the_demo_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    names = {
        f"demo-part-{host}-{ended.pid}-abc": False, f"demo-part-{host}-{os.getpid()}-abc": True,
        "demo-part-other-1-abc": True, "demo-part-old": False, "demo-part-new": True,
    }  # fmt: skip
    for name in names:
        (tmp_path / name / "de").mkdir(parents=True)
    os.utime(tmp_path / "demo-part-old", (0, 0))
    demo._clear_leftovers(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_only_living_workers_are_ended() -> None:
    process = workers.BaseProcess(target=int)
    workers.end([process])  # was never started


def test_a_full_disk_costs_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: Path) -> None:
    from sottovoce.data import open_source
    from sottovoce.evaluation.features import bank
    from sottovoce.evaluation.features.store import FeatureStore, Piece
    from sottovoce.evaluation.subjects.sources import open_subject

    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.random.default_rng(number).uniform(-0.1, 0.1, 16_000), 16_000)
    pieces = [Piece(item, 0.0, None) for item in open_source(tmp_path)]
    subject = open_subject(str(teacher_folder))
    whole = FeatureStore(tmp_path / "cache").get(subject, pieces, "frames")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bank.Bank, "add", full)
    with pytest.warns(UserWarning, match=f"cannot be kept in {tmp_path}/other/.*No space left on device"):
        found = FeatureStore(tmp_path / "other").get(subject, pieces, "frames")
    assert len(found) == 3
    assert all(np.allclose(found.item(i), whole.item(i), atol=0.02) for i in range(3))
