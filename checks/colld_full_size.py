"""Starts CoLLD on a full-size teacher (a w2v-BERT 2.0 of random weights) for a few updates, and compares the memory said and used.

python -m checks.colld_full_size --data speech.tsv --work DIR     # record `colld-full-size`
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from sottovoce.core import ledger
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import encoder_cost, total
from sottovoce.train import api, needs
from sottovoce.train.dist import World
from sottovoce.train.recipe import load_recipe
from sottovoce.train.targets import open_teachers


def make_teacher(folder: Path) -> None:
    """The published shape (24 layers, 1024 wide, 580M parameters), weights at random, as transformers saves it in half precision."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(apply_spec_augment=False)).bfloat16()
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=0.0).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="audio per update")
    options = parser.parse_args()
    folder = options.work / "teacher"
    if not (folder / "config.json").exists():
        make_teacher(folder)
    overrides = [
        f"data.seconds_per_batch={options.seconds}",
        f"data.max_seconds={options.seconds / 2}",
        "data.min_seconds=1",
        "data.workers=0",
        "teacher_precision=bf16",
        "stages.distill.warmup=1",
        f"stages.distill.steps={options.steps}",
        "stages.evaluate=false",
        "log_every=1",
    ]
    began = time.monotonic()
    made = api.compress(folder, recipe="colld", data=options.data, out=options.work / "student", fresh=True, overrides=overrides)
    took, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [json.loads(line) for line in (made.out / "run" / "metrics.jsonl").read_text().splitlines()]
    recipe, shape = load_recipe("colld", [*overrides, f"teacher={folder}"]), load_pretrained(folder).shape
    student = load_pretrained(made.out).encoder
    assert isinstance(student, Encoder)
    teachers, cost = open_teachers(recipe, World(0, 1, torch.device("cpu"))), total(encoder_cost(shape))
    found = {
        "name": "colld-full-size",
        **ledger.header("colld-full-size"),
        "teacher": {"layers": len(shape.layers), "dim": shape.dim, "params": cost.params, "macs_per_s": cost.macs},
        "student": made.record["cost"],
        "said": needs.estimate(recipe, student, teachers.values(), (1, round(options.seconds * 16_000))).text(),
        "peak_gib": round(peak / needs.GIB, 2),
        "seconds": round(took, 1),
        "losses": [row["loss"] for row in rows if "loss" in row],
        "recipe": made.record["recipe"],
    }
    ledger.write(options.out, ledger.portable(found))
    print(json.dumps({key: found[key] for key in ("said", "peak_gib", "seconds", "losses")}, indent=1))


if __name__ == "__main__":
    main()
