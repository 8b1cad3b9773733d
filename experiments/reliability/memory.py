"""Memory said beforehand against the peak of short runs.

    python -m experiments.reliability.memory --work DIR [SETTING ...]

The peak is the largest resident size of the training process (VmHWM) plus what its workers have for themselves at most. Each setting adds a
record to records.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import torch

from sottovoce.core import ledger
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.students.random import Random

MIB, GIB = 2**20, 2**30
FEW = ["--steps", "5", "log_every=1"]
SETTINGS = {  # teacher, recipe, data, what else
    "memory-demo-dphubert-demo": ("demo", "dphubert-demo", "demo", []),
    "memory-demo-colld-demo": ("demo", "colld-demo", "demo", []),
    "memory-demo-dphubert-160s": ("demo", "dphubert", "demo", []),
    "memory-demo-dphubert-24s": ("demo", "dphubert", "short", []),
    "memory-demo-distilhubert": ("demo", "distilhubert", "demo", []),
    "memory-base-dphubert-16s": ("base", "dphubert", "demo", ["data.seconds_per_batch=16"]),
    "memory-base-distilhubert-16s": ("base", "distilhubert", "demo", ["data.seconds_per_batch=16"]),
}


def prepare(work: Path) -> None:
    """A HuBERT Base of random weights, and 24 s of noise."""
    if not (work / "base").exists():
        torch.manual_seed(0)
        save_pretrained(work / "base", Random(Random.Config()).build(None), "hubert", normalize=False)
    (work / "short").mkdir(exist_ok=True)
    for i in range(8):
        soundfile.write(work / f"short/{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(48_000), 16_000)


def _field(path: Path, name: str) -> float:
    """Bytes; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
        return float(found[1]) * 1024 if found else 0.0
    return 0.0


def _private(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    return _field(rollup, "Private_Dirty") + _field(rollup, "Private_Clean")


def peak_of(command: list[str], log: Path) -> tuple[float, float, int]:
    """Bytes of the process and of its workers at most, and its status."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    own, workers = 0.0, defaultdict[int, float](float)
    while process.poll() is None:
        own = max(own, _field(Path(f"/proc/{process.pid}/status"), "VmHWM"))
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                workers[int(child)] = max(workers[int(child)], _private(int(child)))
        time.sleep(0.1)
    several = sorted(workers.values(), reverse=True)[:2]  # each stage has its own two, one pair after another
    return own, sum(several), process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.work)
    for name in options.settings or SETTINGS:
        teacher, recipe, data, more = SETTINGS[name]
        teacher, data = (str(options.work / each) if (options.work / each).exists() else each for each in (teacher, data))
        out = options.work / f"{name}-{os.getpid()}"
        command = [
            sys.executable,
            "-m",
            "sottovoce",
            "compress",
            teacher,
            "--recipe",
            recipe,
            "--data",
            data,
            "--out",
            str(out),
        ]
        own, workers, status = peak_of([*command, "--device", "cpu", "--allow-larger", *FEW, *more], options.work / f"{name}.txt")
        said = [float(text) for text in re.findall(r"memory: about ([\d.]+) GiB", (options.work / f"{name}.txt").read_text())]
        assert status == 0, (options.work / f"{name}.txt").read_text()[-600:]
        made = {
            "name": name,
            **ledger.header("memory"),
            "said_gib": max(said),
            "peak_gib": round((own + workers) / GIB, 2),
            "workers_gib": round(workers / GIB, 2),
            "ratio": round(max(said) * GIB / (own + workers), 2),
            "shared_machine": True,
        }
        ledger.write(options.out, made)
        print(name, made["said_gib"], made["peak_gib"], made["workers_gib"], made["ratio"], flush=True)


if __name__ == "__main__":
    main()
