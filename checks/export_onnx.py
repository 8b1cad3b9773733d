"""Measures what exporting to ONNX changes: every kind of encoder, tiny and random, and the demo teacher in every precision.

python -m checks.export_onnx [demo]     # record `export-onnx`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from onnx import load_model_from_string

from sottovoce.core import ledger
from sottovoce.evaluation.subjects.onnx_file import RuntimeEncoder
from sottovoce.exporting import api, audio, check, half, onnx, quantize
from sottovoce.hub.pretrained import load_pretrained
from tests.unit import test_export_onnx as tests  # the tests' own models, so that the numbers are about what is tested

WHAT = (
    "file through onnxruntime against torch, all hidden states, valid frames, padded batches of lengths that the export did not see. "
    "max_abs: largest absolute difference; scale: largest value; cosine: mean over frames, worst layer; error: squared difference as a "
    "share of the variance over time, mean over channels, worst layer"
)
DEMO = {
    "fp32": None,
    "fp16": None,
    "int8 layers": (True, ("layers",)),
    "int8-static layers": (False, ("layers",)),
    "int8-static layers+position": (False, ("layers", "position")),
    "int8-static layers+position+frontend": (False, ("layers", "position", "frontend")),
}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "name": "export-onnx",
        **ledger.header("export-parity"),
        "what": WHAT,
        "runtime": ledger.version("onnxruntime"),
    }
    found["demo"] = demo()
    if sys.argv[1:] != ["demo"]:
        found["tiny"] = tiny()
    ledger.write(Path(__file__).parent / ledger.RECORDS, found)


def tiny() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for style in tests.STYLES:
        with tempfile.TemporaryDirectory() as folder:
            rows[style] = {precision: tests.differences(style, precision, Path(folder)) for precision in ("fp32", "fp16", "int8")}
        tests.translated.cache_clear()
        print(style, rows[style], flush=True)
    return rows


def demo() -> dict[str, Any]:
    """On a minute of demo speech by voices that no calibration heard."""
    loaded, known = load_pretrained("demo"), audio.read("demo", 60)
    graph = onnx.graph_of(loaded, "all").eval()
    whole, rows = onnx.translate(graph).SerializeToString(), {}
    for name, options in DEMO.items():
        model = load_model_from_string(whole)
        if name == "fp16":
            half.halve(model)
        elif options is not None:
            dynamic, parts = options
            model = (
                quantize.quantize_dynamic(model, parts)
                if dynamic
                else quantize.quantize_static(model, known.calibration_waves, parts)
            )
        onnx.describe(model, onnx.facts(loaded, graph, name))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / api.FILE
            onnx.save(model, path)
            file = RuntimeEncoder(path)
            layers = check.parity(file, check.LayerView(graph), list(check.batches(known.check_waves)), file.layers)
            rows[name] = {
                "megabytes": path.stat().st_size / 1e6,
                "max_abs": max(row["max_abs"] for row in layers),
                "scale": max(row["scale"] for row in layers),
                "cosine": min(row["cosine"] for row in layers),
                "error": max(row["error"] for row in layers),
            }
        print(name, rows[name], flush=True)
    return {"audio_seconds": sum(map(len, known.check_waves)) / 16_000, "files": rows}


if __name__ == "__main__":
    main()
