"""Does DPHuBERT beat its controls? Fidelity to the teacher on speakers that no training heard, at one student size.

    python -m experiments.dphubert_controls.run --teacher demo --train train.tsv --test test.tsv --work DIR

For each budget unit and seed: DPHuBERT's two steps (recipe dphubert-demo), (a) the same cut of the teacher without any distillation, and
(b) a student of the same shape from random start, distilled for as many updates on the same data. Test recordings are whole and never seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from experiments.students import Setting, dphubert, from_random_start
from sottovoce.core import ledger
from sottovoce.core.registry import TASKS
from sottovoce.core.types import Batch
from sottovoce.data import DataConfig, open_data
from sottovoce.encoder import Encoder, normalize
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.pruning import GatedEncoder
from sottovoce.train.work import cost_of


def held_out(manifest: str, wants_norm: bool, seconds: float) -> list[Batch]:
    """Batches of all recordings of `manifest`, up to `seconds` in all."""
    config = DataConfig(seconds_per_batch=40, min_seconds=1.0, max_seconds=10.0, valid_share=0.5, valid_max_seconds=seconds)
    batches = list(open_data(manifest, config, seed=0).valid)
    return [Batch(normalize(b.wave, b.lengths), b.lengths, b.ids) for b in batches] if wants_norm else batches


def undistilled(teacher: Pretrained, run: Path, units: tuple[str, ...]) -> Encoder:
    """The teacher with the units of the run's cut taken out and nothing learnt."""
    kept = json.loads((run / "run" / "cut.json").read_text())["kept"]
    assert isinstance(teacher.encoder, Encoder)
    gated = GatedEncoder(teacher.encoder, units)
    values = {
        group.name: torch.zeros(group.size).index_fill(0, torch.tensor(kept[group.name], dtype=torch.long), 1.0)
        for group in gated.plan
    }
    return gated.cut(values).eval()


def score(model: torch.nn.Module, teacher: Pretrained, batches: list[Batch]) -> dict[str, Any]:
    task = TASKS.get("fidelity")
    found: dict[str, Any] = task(task.Config()).run(model, teacher.encoder, batches)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="demo")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--test-seconds", type=float, default=600)
    parser.add_argument("--units", nargs="+", default=["params", "macs"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()

    teacher = load_pretrained(options.teacher)
    setting = Setting(options.teacher, options.train, options.work, options.steps, tuple(options.overrides))
    full = teacher.encoder
    assert isinstance(full, Encoder)
    batches = held_out(options.test, teacher.normalize, options.test_seconds)
    done = {record["name"] for record in ledger.read_all(options.out)}
    for unit in options.units:
        for seed in options.seeds:
            name = f"{unit}-{options.keep:g}-seed{seed}"
            if name in done:
                continue
            made = dphubert(setting, unit, options.keep, seed)
            recipe = setting.recipe
            models: dict[str, Any] = {
                "dphubert": load_pretrained(made.out).encoder,
                "cut without distillation": undistilled(teacher, made.out, recipe.pruning.units),
                "same shape from random start": load_pretrained(from_random_start(setting, unit, options.keep, seed).out).encoder,
            }
            found = {
                "name": name,
                **ledger.header("controls"),
                "teacher": {"name": options.teacher, **cost_of(full)},
                "unit": unit,
                "keep": options.keep,
                "seed": seed,
                "steps": recipe.steps,
                "data": {
                    "train": Path(options.train).name,
                    "test": Path(options.test).name,
                    "test_rows": sum(len(b.wave) for b in batches),
                },
                "recipe": made.record["recipe"],
                "budget": made.record.get("budget"),
                "seconds": made.record["seconds"],
                "models": {
                    name: {**cost_of(model), "fidelity": score(model, teacher, batches)} for name, model in models.items()
                },
            }
            ledger.write(options.out, found)
            means = {name: row["fidelity"]["mean"] for name, row in found["models"].items()}
            print(unit, seed, json.dumps(means), flush=True)


if __name__ == "__main__":
    main()
