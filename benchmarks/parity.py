"""How far our encoder is from transformers and from the DPHuBERT code, on tiny random models; writes results/parity.json.

PYTHONPATH=src python benchmarks/parity.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from sottovoce import ledger

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "golden")]

import test_families as families  # noqa: E402  the tests' own models, so that the numbers are about what is tested
import test_golden as golden  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    against: dict[str, dict[str, float]] = {}
    for family, style in families.CASES:
        model = families.tiny(family, style)
        plain, as_theirs = families.ours(model, family), families.ours(model, family, over_padding=True)
        against[f"{family} / {style}"] = {
            "one item": families.difference(plain, model, [7003], alone=True),
            "padded batch, against each item alone": families.difference(plain, model, families.BATCH, alone=True),
            "padded batch, against the same batch": families.difference(as_theirs, model, families.BATCH, alone=False),
        }
    found = {
        **ledger.header("parity"),
        "what": "largest absolute difference over all hidden states, valid frames; random weights, 3 layers of 48, float32, CPU",
        "transformers": against,
        "golden": {model: golden.differences(model) for model in golden.MODELS},
    }
    for name, numbers in {**against, **found["golden"]}.items():
        print(f"{name:32s} {max(numbers.values()):.1e}  {json.dumps({key: float(f'{x:.1e}') for key, x in numbers.items()})}")
    path = ROOT / "results" / "parity.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
