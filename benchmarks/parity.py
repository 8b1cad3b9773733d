"""How far our encoder is from transformers and from the DPHuBERT code, on tiny random models.

PYTHONPATH=src python benchmarks/parity.py                # results/parity.json
PYTHONPATH=src python benchmarks/parity.py conformer      # results/parity-conformer.json: the families with Conformer layers
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sottovoce.core import ledger

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "golden")]

import test_golden as golden  # noqa: E402  the tests' own models, so that the numbers are about what is tested
from tests.unit import test_conformers as conformers  # noqa: E402
from tests.unit import test_families as families  # noqa: E402

WHAT = "largest absolute difference over all hidden states, valid frames; random weights, 3 layers of 48, float32, CPU"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["conformer"]:
        write(ROOT / "results" / "parity-conformer.json", conformer())
    else:
        write(ROOT / "results" / "parity.json", transformer())


def transformer() -> dict[str, Any]:
    against: dict[str, dict[str, float]] = {}
    for family, style in families.CASES:
        model = families.tiny(family, style)
        plain, as_theirs = families.ours(model, family), families.ours(model, family, over_padding=True)
        against[f"{family} / {style}"] = {
            "one item": families.difference(plain, model, [7003], alone=True),
            "padded batch, against each item alone": families.difference(plain, model, families.BATCH, alone=True),
            "padded batch, against the same batch": families.difference(as_theirs, model, families.BATCH, alone=False),
        }
    return {"transformers": against, "golden": {model: golden.differences(model) for model in golden.MODELS}}


def conformer() -> dict[str, Any]:
    """w2v-BERT 2.0 from the waveform on, against transformers' feature extractor and model; and its filter bank alone."""
    against: dict[str, dict[str, float]] = {}
    for family, position, style in conformers.CASES:
        model = conformers.tiny(family, position, style)
        theirs = conformers.hearing(model, family)
        plain = conformers.ours(model, family)
        as_theirs = plain if family == "wav2vec2_bert" else conformers.ours(model, family, over_padding=True)
        against[" / ".join((family, str(position), style)).removesuffix(" / ")] = {
            "one item": families.difference(plain, theirs, [7003], alone=True),
            "padded batch, against each item alone": families.difference(plain, theirs, conformers.ODD, alone=True),
            "padded batch, against the same batch": families.difference(as_theirs, theirs, conformers.ODD, alone=False),
        }
    return {"transformers": against, "filter bank": {"3 s fading in from silence": conformers.bank_differences()}}


def write(path: Path, parts: dict[str, Any]) -> None:
    found = {**ledger.header("parity"), "what": WHAT, **parts}
    for name, numbers in {name: numbers for part in parts.values() for name, numbers in part.items()}.items():
        print(f"{name:40s} {max(numbers.values()):.1e}  {json.dumps({key: float(f'{x:.1e}') for key, x in numbers.items()})}")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
