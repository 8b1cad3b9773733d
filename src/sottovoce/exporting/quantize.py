"""Whole numbers of 8 bits for ONNX graphs, by onnxruntime: weights always, what they are multiplied with while running or in advance."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sottovoce.exporting.half import FLOAT32_ONLY
from sottovoce.exporting.proto import INPUTS, PARTS, library, save, scope, weights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

DYNAMIC, STATIC = ("layers",), ("layers", "position")  # the convolutions on the waveform lose far too much
NARROW = True  # weights of 7 bits: products of 8 bits overflow on x86 processors without VNNI


def part(node: NodeProto) -> str:
    """Which of `PARTS` a node belongs to: the waveform's convolutions, the positional ones, or all the rest."""
    name = scope(node)
    if name.startswith("encoder.frontend") and not name.startswith("encoder.frontend.projection"):
        return "frontend"
    return "position" if name.startswith("encoder.position") else "layers"


def targets(model: ModelProto, parts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Names of the nodes of these kinds and parts whose second input is a weight. ValueError for unknown parts or no nodes."""
    if unknown := [name for name in parts if name not in PARTS]:
        raise ValueError(f"there is no part '{unknown[0]}' to quantise; parts: {', '.join(PARTS)}")
    known = weights(model)
    nodes = [node for node in model.graph.node if node.op_type in kinds and len(node.input) > 1 and node.input[1] in known]
    nodes = [node for node in nodes if part(node) in parts and not scope(node).startswith(FLOAT32_ONLY)]
    if not nodes:
        raise ValueError(f"nothing can be quantised in {', '.join(parts) or 'no part'}; choose among {', '.join(PARTS)}")
    return [node.name for node in nodes]


def quantize_dynamic(model: ModelProto, parts: Sequence[str] = DYNAMIC, tables: bool = False) -> ModelProto:
    """Weights of matrix products as int8, one scale per output channel; activations are rounded while running, with a scale for each tensor
    of each call. So a row's features depend a little on its neighbours in the batch. Convolutions have no fast kernels of this kind.

    tables: also the tables of embeddings. ValueError for parts that consist of convolutions.
    """
    if refused := [name for name in parts if name in PARTS and name != "layers"]:
        raise ValueError(f"'{refused[0]}' consists of convolutions; quantise it with --precision int8-static, or leave it out")
    names = targets(model, parts, ("MatMul", "Gemm"))
    if tables:
        known = weights(model)
        names += [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in known]
    quantization = library("onnxruntime.quantization")

    def run(source: Path, target: Path) -> None:
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm", *(["Gather"] if tables else [])],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=NARROW,
        )

    return _through_files(model, run)


def quantize_static(model: ModelProto, waves: Sequence[Tensor], parts: Sequence[str] = STATIC) -> ModelProto:
    """Weights and activations as int8, in a graph of quantise and dequantise nodes (QDQ) that accelerators know; ranges of the
    activations are the extremes on `waves`, each (S,) raw samples. ValueError without audio."""
    if not waves:
        raise ValueError("static quantisation measures ranges on real audio, and there is none; name some with --data")
    names = targets(model, parts, ("MatMul", "Gemm", "Conv"))
    quantization = library("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        """Feeds one recording at a time, so that no padding is seen."""

        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(waves)

        def get_next(self) -> dict[str, Any] | None:
            import numpy as np

            wave = next(self.left, None)
            return None if wave is None else dict(zip(INPUTS, (wave[None].numpy(), np.array([len(wave)])), strict=True))

    def run(source: Path, target: Path) -> None:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=NARROW,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )

    return _through_files(model, run)


def _through_files(model: ModelProto, run: Any) -> ModelProto:
    """onnxruntime's tools read and write files."""
    onnx = library("onnx")
    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory(prefix="sottovoce-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        save(model, source)
        root.setLevel(logging.ERROR)  # it advises, through the root logger, what is done here already
        try:
            run(source, target)
        finally:
            root.setLevel(level)
        quantised: ModelProto = onnx.load(target)
    return quantised
