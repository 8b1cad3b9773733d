"""Whether this checkout gives the same numbers as another commit, to the last bit.

    python checks/same_numbers.py --against COMMIT

Both versions make the same short runs through the command line, on a CPU: DPHuBERT (prune, cut, distill), the joint recipe `sotto`
with live cutting and restarts, CoLLD from a Conformer with augmentation, and pre-training without a teacher. Compared are the
losses of every update, the weights after every stage, the student that is written, what `--dry-run` says of plan and budget, and
tables of cost and latency (`tables.py`). Prints one line per comparison; the status is 1 when any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parents[1]
MAIN = "from sottovoce.cli import main; main()"  # in every version
TIMES = ("audio_per_s",)  # what a run logs that is not a result

FAST = [
    "data.seconds_per_batch=4",
    "data.min_seconds=0.5",
    "data.max_seconds=2",
    "data.workers=0",
    "precision=fp32",
    "log_every=1",
    "valid_every=10",
]
PRUNED = [
    "stages.prune.steps=40",
    "stages.prune.warmup=8",
    "stages.distill.steps=20",
    "stages.distill.warmup=3",
    "pruning.ramp=10",
    "pruning.units=[conv,head,ffn,attention,feed_forward]",
]
NARROW = ["student.dim=16", "student.depth=2", "student.heads=2", "student.ffn_dim=32", "student.glu_dim=16"]
RANDOM = ["student.dim=32", "student.heads=4", "student.depth=2", "student.ffn_dim=48", "student.position_groups=4"]
CONVS = ["student.conv_dims=[8,8,8,8,8,8,8]"]
LIVE = ["pruning.live=2", "pruning.live_below=0.4", "pruning.gate_lr=0.5", "pruning.multiplier_lr=1.0", "pruning.restarts=true"]
LIVE_UNITS = ["pruning.units=[conv,head,ffn]", "objectives.colld.layers=2"]
RUNS: dict[str, list[str]] = {
    "dphubert": ["compress", "{hubert}", "--recipe", "dphubert", "--keep", "0.4", *PRUNED, "stages.distill.accumulate=2"],
    "sotto": ["compress", "{hubert}", "--recipe", "sotto", "--keep", "0.4", *PRUNED, *LIVE, *LIVE_UNITS],
    "colld": ["compress", "{conformer}", "--recipe", "colld-xlsr", *NARROW, *CONVS, "stages.distill.steps=30",
              "stages.distill.warmup=5", "augment.share=0.5"],
    "pretrain": ["pretrain", "--recipe", "pretrain-tiny", *RANDOM, *CONVS, "objectives.masked_prediction.clusters=20",
                 "objectives.masked_prediction.fit_frames=1000", "stages.first.steps=20", "stages.first.warmup=3"],
}  # fmt: skip


def make_inputs(folder: Path) -> dict[str, str]:
    """Two tiny random teachers in Hugging Face format, and two dozen recordings of gliding tones in noise."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2ConformerConfig, Wav2Vec2ConformerModel

    torch.manual_seed(11)
    convs = {"conv_dim": (16,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}
    position = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    HubertModel(HubertConfig(**convs, **shape, **position)).save_pretrained(folder / "hubert")
    conformer = Wav2Vec2ConformerConfig(**convs, **shape, conv_depthwise_kernel_size=5, position_embeddings_type="relative")
    Wav2Vec2ConformerModel(conformer).save_pretrained(folder / "conformer")
    (folder / "speech").mkdir()
    draw = np.random.default_rng(3)
    for i in range(24):
        seconds = draw.uniform(1.0, 3.0)
        t = np.arange(int(seconds * 16_000)) / 16_000
        pitch = draw.uniform(90, 300) * (1 + 0.3 * np.sin(2 * np.pi * draw.uniform(0.5, 3) * t))
        wave = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.02 * draw.standard_normal(len(t))
        soundfile.write(folder / f"speech/{i:02d}.wav", wave.astype(np.float32), 16_000)
    return {name: str(folder / name) for name in ("hubert", "conformer", "speech")}


def python(tree: Path, *arguments: str) -> str:
    """What Python says when it runs with the sottovoce of `tree`. Ends the check when it fails."""
    # oneDNN is what versions before decision 0020 took on processors that are not Intel's
    fixed = {"SOTTOVOCE_KERNELS": os.environ.get("SOTTOVOCE_KERNELS", "onednn"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env = {**os.environ, **fixed, "PYTHONPATH": str(tree / "src"), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], env=env, cwd=tree, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\nfailed in {tree} with status {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def run(tree: Path, name: str, inputs: dict[str, str], out: Path) -> None:
    command = [part.format(**inputs) if part.startswith("{") else part for part in RUNS[name]]
    options = ["--data", inputs["speech"], "--out", str(out), "--device", "cpu"]
    python(tree, "-c", MAIN, *command, *options, *FAST)


def events(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, update) -> value in float32, as TensorBoard's events hold it; empty where tensorboard is not installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return {}
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in found.Tags()["scalars"] if not tag.endswith(TIMES)]
    return {(tag, event.step): event.value for tag in tags for event in found.Scalars(tag)}


def rows(folder: Path) -> dict[tuple[str, int], Any]:
    """(stage and measure, update) -> value to six digits, as the run's metrics hold it."""
    found: dict[tuple[str, int], Any] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.update(
            {(f"{row['stage']}/{key}", row["step"]): value for key, value in row.items() if key not in (*TIMES, "stage", "step")}
        )
    return found


def tensors(path: Path) -> dict[str, bytes]:
    """Name -> shape and bytes of every tensor of the encoder, its gates and the maps that go with it; and what was cut for good."""
    found = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("objectives.")}
    with safe_open(path, "pt") as file:
        kept = {"kept": file.metadata()["kept"].encode()} if "kept" in file.metadata() else {}
    return {**kept, **{name: str(tuple(t.shape)).encode() + t.contiguous().numpy().tobytes() for name, t in found.items()}}


def different(here: dict[Any, Any], there: dict[Any, Any]) -> str:
    """The first thing that differs between two mappings, in words; "" when nothing does."""
    for key in {**there, **here}:
        if key not in here or key not in there:
            return f"{key} is only {'there' if key in there else 'here'}"
        if here[key] != there[key]:
            values = (here[key], there[key])
            return f"{key}" + ("" if isinstance(here[key], bytes) else f": {values[0]!r} here, {values[1]!r} there")
    return ""


def compare_runs(here: Path, there: Path) -> Iterator[tuple[str, str, int]]:
    """(what, difference or "", how many values) of two runs' folders."""
    for what, read in {"metrics": rows, "metrics in float32": events}.items():
        mine, theirs = read(here / "run"), read(there / "run")
        yield what, different(mine, theirs), len(theirs)
    files = [path.relative_to(there) for path in sorted(there.glob("run/*.safetensors"))]
    for file in [*files, Path("model.safetensors")]:
        if not (here / file).exists():
            yield f"{file}", "it is only there", 0
            continue
        mine_, theirs_ = tensors(here / file), tensors(there / file)
        yield f"{file}", different(mine_, theirs_), len(theirs_)


def plans(tree: Path, inputs: dict[str, str]) -> dict[str, Any]:
    """What a dry run says of the plan and the budget, in each unit that a budget can count."""
    found = {}
    for unit in ("params", "macs", "latency"):
        command = [
            "compress",
            inputs["hubert"],
            "--data",
            inputs["speech"],
            "--out",
            "nowhere",
            "--dry-run",
            "--keep",
            "0.7",
            "--budget",
            unit,
        ]
        if "as_json" in (tree / "src/sottovoce/cli/compress.py").read_text(encoding="utf-8"):
            command.append("--json")  # an earlier version always prints JSON here
        plan = json.loads(python(tree, "-c", MAIN, *command))
        wanted = ("teacher", "memory", "training_macs_at_most", "plan", "student", "steps", "audio_hours")
        found.update({f"{unit}: {key}": plan.get(key) for key in wanted})
    return found


def flat(table: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(table, dict):
        return {where: table}
    return {key: value for name, item in table.items() for key, value in flat(item, f"{where} {name}".strip()).items()}


def comparisons(before: Path, work: Path, names: list[str]) -> Iterator[tuple[str, str, int]]:
    inputs = make_inputs(work)
    for name in names:
        folders = [work / f"{name}-here", work / f"{name}-there"]
        for tree, folder in zip((HERE, before), folders, strict=True):
            run(tree, name, inputs, folder)
        for what, found, count in compare_runs(*folders):
            yield f"{name}: {what}", found, count
    mine, theirs = plans(HERE, inputs), plans(before, inputs)
    yield "dry run", different(mine, theirs), len(theirs)
    mine, theirs = (flat(json.loads(python(tree, str(HERE / "checks/tables.py")))) for tree in (HERE, before))
    yield "tables of cost and latency", different(mine, theirs), len(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT", help="the commit to compare this checkout with")
    parser.add_argument("--run", action="append", choices=RUNS, help="only these runs; repeatable")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        before, work = Path(temporary) / "before", Path(temporary) / "work"
        work.mkdir()
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(before), options.against], check=True)
        try:
            for what, found, count in comparisons(before, work, options.run or list(RUNS)):
                print(f"{'DIFFERS' if found else 'same':8}{what}" + (f": {found}" if found else f" ({count} values)"), flush=True)
                failed += bool(found)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
