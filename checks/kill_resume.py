"""Kills a short DPHuBERT run with SIGKILL at random moments, restarts it each time, and compares the student at the end.

    python -m checks.kill_resume --kills 20     # record `kill-resume`

The teacher is a tiny random HuBERT, the data are tones. The final weights must equal those of a run that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from sottovoce.core import ledger
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.students.random import Random

OPTIONS = [
    "data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=1", "precision=fp32", "save_minutes=0.005",
    "stages.prune.steps=150", "stages.prune.warmup=20", "stages.distill.steps=150", "stages.distill.warmup=10", "pruning.ramp=50",
]  # fmt: skip


def prepare(folder: Path) -> tuple[Path, Path]:
    """A tiny teacher and a folder of tones."""
    torch.manual_seed(0)
    shape = Random.Config(dim=32, depth=4, heads=4, ffn_dim=64, conv_dims=(16,) * 7, position_groups=4, position_kernel=16)
    save_pretrained(folder / "teacher", Random(shape).build(None), "hubert", normalize=False)
    (folder / "speech").mkdir()
    noise = np.random.default_rng(0)
    for i in range(40):
        t = np.arange(int(noise.uniform(1, 3) * 16_000)) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * noise.uniform(80, 2000) * t) + 0.02 * noise.standard_normal(len(t))
        soundfile.write(folder / "speech" / f"{i}.wav", wave.astype(np.float32), 16_000)
    return folder / "teacher", folder / "speech"


def start(teacher: Path, speech: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "sottovoce",
        "compress",
        str(teacher),
        "--data",
        str(speech),
        "--out",
        str(out),
        "--keep",
        "0.5",
    ]
    return subprocess.Popen(
        [*command, "--device", "cpu", *OPTIONS],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    options = parser.parse_args()
    moments, finished = random.Random(options.seed), 0
    kills: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher, speech = prepare(folder)
        began = time.monotonic()
        assert start(teacher, speech, folder / "whole").wait() == 0
        whole, took = digest(folder / "whole"), time.monotonic() - began
        print(f"undisturbed: {took:.1f} s", flush=True)
        digests = []
        while len(kills) < options.kills:
            out = folder / f"killed-{finished}"
            while True:
                process = start(teacher, speech, out)
                patience = moments.uniform(0.3, 1.0) * took * 0.6 if len(kills) < options.kills else 1e9
                try:
                    status = process.wait(timeout=patience)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    stages = sorted(path.stem for path in (out / "run").glob("*.json"))
                    kills.append(
                        {
                            "after_s": round(patience, 2),
                            "stages_done": stages,
                            "checkpoint": (out / "run/checkpoints.json").exists(),
                        }
                    )
                    print(len(kills), kills[-1], flush=True)
                    continue
                assert status == 0, status
                break
            digests.append(digest(out))
            finished += 1
        same = all(found == whole for found in digests)
    found = {
        "name": "kill-resume",
        **ledger.header("kill-resume"),
        "kills": kills, "runs": finished, "identical": same,
    }  # fmt: skip
    ledger.write(options.out, found)
    print(f"{len(kills)} kills over {finished} runs; final weights identical: {same}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
