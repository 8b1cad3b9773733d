"""A `Graph` as a file for ExecuTorch: one wave of one length in, hidden states out, computed by XNNPACK where it can.

B batch, H heads, T frames, E head width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.extras import Missing, optional
from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder import normalize
from sottovoce.evaluation.subjects.onnx_file import features_of, layers_of, subject_of
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.exporting.graph import Graph, quiet

NAME, RUNTIME, FILE = "ExecuTorch", "executorch", "model.pte"
PRECISIONS: tuple[str, ...] = ("fp32", "int8")
PARTS: tuple[str, ...] = ("layers",)
ANY_LENGTH, SCORES = False, False
MILDER = "--precision fp32"
LONGEST = 60.0  # seconds: memory for attention is laid out in advance and grows with the square


def library(name: str) -> Any:
    """A module of the extra ``executorch``. ValueError where it is not installed."""
    with quiet():
        try:
            return optional(name, "executorch", "a file for ExecuTorch")
        except Missing:
            raise
        except Exception as problem:  # built for another torch, it fails in the loader's or the registry's own ways
            raise ValueError(
                f"ExecuTorch does not work with torch {torch.__version__} ({_line(problem)}); "
                "install versions that fit: pip install 'sottovoce[executorch]'"
            ) from None


def require() -> None:
    """ValueError where the extra ``executorch`` is missing or does not work."""
    for name in ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.runtime"):
        library(name)


def settings(graph: Graph, window: float) -> dict[str, str]:
    """The window, in samples, and its frames. ValueError where it has no frame or is too long."""
    front = graph.encoder.config.frontend
    least = front.kernel / SAMPLE_RATE
    if not least <= window <= LONGEST:
        raise ValueError(f"a window of {window:g} s cannot be; give {least:g} to {LONGEST:g} s with --window")
    samples = round(window * SAMPLE_RATE)
    return {"window": str(samples), "frames": str(front.frames(samples) * graph.join)}


def pieces(waves: Sequence[Tensor], facts: Mapping[str, str]) -> list[Tensor]:
    """Recordings one after another, cut into whole windows; silence behind them where they do not fill one."""
    size = int(facts["window"])
    joined = torch.cat(list(waves))
    if len(joined) < size:
        joined = nn.functional.pad(joined, (0, size - len(joined)))
    return list(joined[: len(joined) // size * size].split(size))


class Window(nn.Module):
    """A `Graph` for one wave without padding: (1, S) raw 16 kHz samples -> hidden states as the graph gives them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.of = graph  # not `graph`: torch.export makes a module of it that has one already

    def forward(self, wave: Tensor) -> Tensor:
        return self.of.states(self.of.encoder(normalize(wave) if self.of.normalize else wave, None))


def build(
    graph: Graph,
    facts: Mapping[str, str],
    *,
    parts: Sequence[str] | None = None,
    calibration: Sequence[Tensor] = (),
    say: Callable[[str], None] = lambda text: None,
) -> bytes:
    """The file: the graph for the window that `facts` name, in their precision; each fact is a method without inputs.

    ValueError where ExecuTorch cannot translate the model.
    """
    exir = library("executorch.exir")
    xnnpack = library("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    partitioners = [xnnpack.XnnpackPartitioner()]
    if facts["precision"] == "int8" and any(layer.kind == "conformer" for layer in graph.encoder.config.layers):
        # alone, the other one would cut Conformers into pieces that wait for each other; this one takes its time
        partitioners.insert(0, xnnpack.XnnpackDynamicallyQuantizedPartitioner())
    example = (0.1 * torch.randn(1, int(facts["window"]), generator=torch.Generator().manual_seed(0)),)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(Window(graph).eval(), example, strict=False)
            if facts["precision"] == "int8":
                program = torch.export.export(_quantized(program.module(), graph, example), example, strict=False)
            program = program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attention})
            lowered = exir.to_edge_transform_and_lower(
                program,
                partitioner=partitioners,
                constant_methods={key: _constant(text) for key, text in facts.items()},
            )
            buffer: bytes = lowered.to_executorch().buffer
    except Exception as problem:  # of the many parts of the exporter, each has exceptions of its own
        way = "export it to ONNX" if facts["precision"] == "fp32" else f"try {MILDER}, or export it to ONNX"
        raise ValueError(f"ExecuTorch cannot translate {facts['source']} ({_line(problem)}); {way}") from None
    return buffer


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention, (B, H, T, E), as our encoders call it, for a graph without padding. ExecuTorch's own translation
    guards against rows in which everything is masked, with operations that XNNPACK lacks, and cuts each layer into four pieces."""
    assert not is_causal
    assert not enable_gqa
    rows, heads, frames, width = q.shape
    q, k, v = (x.reshape(rows * heads, frames, width) for x in (q * (width**-0.5 if scale is None else scale), k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    if attn_mask is not None:
        scores = (scores.view(rows, heads, frames, frames) + attn_mask).view(rows * heads, frames, frames)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(rows, heads, frames, width)


def _quantized(module: nn.Module, graph: Graph, example: tuple[Tensor]) -> nn.Module:
    """The exported `module` with the weights of its linear layers as int8, one scale per output channel; activations are rounded while
    running. Products with weights that are computed themselves (gates of relative positions) stay as they are."""
    xnnpack = library("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    pt2e = library("torchao.quantization.pt2e.quantize_pt2e")

    class Quantizer(xnnpack.XNNPACKQuantizer):  # type: ignore[name-defined]
        def transform_for_annotation(self, model: Any) -> Any:
            return model  # its own makes every number in the graph a float, indices of relative positions among them

    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer = Quantizer()
    for kind in {type(part) for part in graph.modules() if isinstance(part, nn.Linear)}:
        quantizer.set_module_type(kind, config)
    prepared = pt2e.prepare_pt2e(module, quantizer)
    prepared(*example)  # ranges are found while running; its observers want to have seen something
    converted: nn.Module = pt2e.convert_pt2e(prepared)
    return converted


def _constant(text: str) -> int | float | bool | str:
    """A fact as a method of the file can give it: numbers and truth values as such, lists and mappings as JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


def size(model: bytes) -> int:
    """Bytes."""
    return len(model)


def save(model: bytes, path: Path) -> None:
    path.write_bytes(model)


def about(facts: Mapping[str, str]) -> dict[str, Any]:
    """What the file takes and gives, for people."""
    shape = f"{facts['frames']}, {facts['dim']}"
    if facts["layer"] == "all":
        shape = f"{len(json.loads(facts['layers']))}, {shape}"
    return {
        "inputs": {"wave": f"float32 (1, {facts['window']}), 16 kHz, as recorded, without padding"},
        "outputs": {"hidden_states": f"float32 (1, {shape})"},
    }


class ExecutorchEncoder(nn.Module):
    """(B, S) raw 16 kHz samples -> `Features`, computed by ExecuTorch on the CPU, row by row; S is the file's window.

    A file with one layer gives it as `embedded`, as `last` and as both of `hidden`, as `RuntimeEncoder` does. facts: what the file says
    of itself. ValueError when the file is not one of ours, or damaged, or executorch is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = library("executorch.runtime").Runtime.get()
        try:
            self.program = runtime.load_program(path)
            names = sorted(self.program.method_names - {"forward"})
            values = {name: self.program.load_method(name).execute([])[0] for name in names}
            self.method = self.program.load_method("forward")
        except Exception as problem:  # what a damaged file does to the runtime
            raise ValueError(f"{path}: ExecuTorch cannot load it: {_line(problem)}") from None
        self.facts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        if "window" not in self.facts or "layers" not in self.facts:
            raise ValueError(f"{path}: not written by 'sottovoce export'")

    @property
    def layers(self) -> list[str]:
        """Names of the hidden states that it gives."""
        return layers_of(self.facts)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        window, frames = int(self.facts["window"]), int(self.facts["frames"])
        if wave.shape[1] != window or (lengths is not None and bool((lengths != window).any())):
            raise ValueError(f"the file takes {window} samples at a time (16 kHz), without padding; this is another length")
        # cloned, because the next row is computed into the same memory
        x = torch.cat([self.method.execute([row[None].float().contiguous()])[0].clone() for row in wave])
        return features_of(x, None if lengths is None else torch.full((len(wave),), frames))


def opened(path: Path) -> Subject:
    """The file, run by ExecuTorch. ValueError as `ExecutorchEncoder` raises it."""
    encoder = ExecutorchEncoder(path)
    facts = encoder.facts
    return subject_of(encoder, facts, path, f"{facts['source']}-executorch-{facts['precision']}")


def _line(problem: BaseException) -> str:
    """The first line of what a problem says."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), "") or type(problem).__name__
