"""Measures how far our encoder is from transformers and from the DPHuBERT code, on tiny random models.

python -m checks.parity               # record `parity`
python -m checks.parity conformer     # record `parity-conformer`: the families with Conformer layers
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sottovoce.core import ledger
from tests.golden import test_golden as golden  # the tests' own models, so that the numbers are about what is tested
from tests.unit import test_conformers as conformers
from tests.unit import test_families as families

OUT = Path(__file__).parent / ledger.RECORDS
WHAT = "largest absolute difference over all hidden states, valid frames; random weights, 3 layers of 48, float32, CPU"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["conformer"]:
        write("parity-conformer", conformer())
    else:
        write("parity", transformer())


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


def write(name: str, parts: dict[str, Any]) -> None:
    found = {"name": name, **ledger.header("parity"), "what": WHAT, **parts}
    for of, numbers in {of: numbers for part in parts.values() for of, numbers in part.items()}.items():
        print(f"{of:40s} {max(numbers.values()):.1e}  {json.dumps({key: float(f'{x:.1e}') for key, x in numbers.items()})}")
    ledger.write(OUT, found)


if __name__ == "__main__":
    main()
