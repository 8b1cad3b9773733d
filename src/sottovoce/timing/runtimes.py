"""The runtimes that `sottovoce bench` compares. Each prepares a model in the main process and opens it in a process of its own.

torch, transformers and onnxruntime are imported where they are needed, so that a process holds only what its runtime needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Forward = Callable[[NDArray[np.float32]], object]  # (B, S) waveforms, 16 kHz, normalised


class Unavailable(Exception):
    """This runtime cannot run this model here. The message says why."""


@dataclass(frozen=True)
class Runtime:
    """prepare: (model, empty folder) -> the argument of `open`. open: (argument, threads) -> a function for one forward pass. Both may
    raise Unavailable."""

    prepare: Callable[[str, Path], str]
    open: Callable[[str, int], Forward]


def unprepared(source: str, scratch: Path) -> str:
    return source


def eager(source: str, threads: int) -> Forward:
    """Our encoder, as `sottovoce.load` runs it."""
    import torch

    from sottovoce.hub.pretrained import load_pretrained

    torch.set_num_threads(threads)
    encoder = load_pretrained(source).encoder.requires_grad_(False)
    return lambda wave: encoder(torch.from_numpy(wave))


def packed(source: str, threads: int) -> Forward:
    """Our encoder packed for a CPU, as ``sottovoce.load(..., fast=True)`` runs it."""
    import torch

    from sottovoce.encoder import Encoder
    from sottovoce.hub.pretrained import load_pretrained
    from sottovoce.inference.packed import pack

    torch.set_num_threads(threads)
    encoder = load_pretrained(source).encoder
    if not isinstance(encoder, Encoder):
        raise Unavailable("it runs inside transformers")
    run = pack(encoder)
    return lambda wave: run(torch.from_numpy(wave))


def compiled(source: str, threads: int) -> Forward:
    """Our encoder after torch.compile, for clips of any length."""
    import torch

    from sottovoce.hub.pretrained import load_pretrained

    torch.set_num_threads(threads)
    run = torch.compile(load_pretrained(source).encoder.requires_grad_(False), dynamic=True)
    return lambda wave: run(torch.from_numpy(wave))


def stock(source: str, scratch: Path) -> str:
    """The model's path or id for transformers. Unavailable for students, which no class of transformers can hold."""
    from transformers import AutoConfig

    from sottovoce.hub.pretrained import SHIPPED

    at = str(SHIPPED.get(source, source))
    try:
        kind = AutoConfig.from_pretrained(at, trust_remote_code=False).model_type
    except (OSError, ValueError) as problem:
        raise Unavailable(f"transformers does not know it ({_line(problem)})") from None
    if kind == "sottovoce":
        raise Unavailable("no class of transformers can hold its shape")
    return at


def transformers(at: str, threads: int) -> Forward:
    """The model's class in transformers, with its default attention (SDPA where available) and its feature extractor."""
    import torch
    from transformers import AutoConfig

    from sottovoce.families.generic import load_generic
    from sottovoce.hub.checkpoint import read_tensors

    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(at)
    if config.model_type == "whisper":  # which the generic path refuses, because it gives 30 s for any clip
        return whisper(at)
    model = load_generic(Path(at), config.to_dict(), read_tensors(Path(at))).requires_grad_(False)
    return lambda wave: model(torch.from_numpy(wave))


def whisper(at: str) -> Forward:
    """Whisper's encoder in transformers, with its feature extractor, which pads every clip to the window."""
    import torch
    from transformers import AutoFeatureExtractor, WhisperModel

    from sottovoce.core.types import SAMPLE_RATE

    model, extractor = WhisperModel.from_pretrained(at, dtype=torch.float32), AutoFeatureExtractor.from_pretrained(at)
    encoder = model.eval().requires_grad_(False).get_encoder()

    def forward(wave: NDArray[np.float32]) -> object:
        features = extractor(list(wave), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        return encoder(features, output_hidden_states=True)

    return forward


def exported(source: str, scratch: Path) -> str:
    """The model's ONNX file: `model.onnx` in its folder, else exported into `scratch`. A file older than the weights is not used."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise Unavailable('onnxruntime is not installed; pip install "sottovoce[onnx]"')
    folder = Path(source).expanduser()
    beside, weights = folder / "model.onnx", folder / "model.safetensors"
    current = beside.is_file() and not (weights.is_file() and beside.stat().st_mtime < weights.stat().st_mtime)
    return str(beside if current else _export(source, scratch))


def _export(source: str, scratch: Path) -> Path:
    from sottovoce.exporting.onnx import export_onnx

    path = scratch / "model.onnx"
    try:
        export_onnx(source, path)
    except Exception as problem:  # the exporter can fail in many ways; the other runtimes must still be timed
        raise Unavailable(f"it could not be exported ({_line(problem)})") from None
    return path


def onnx(at: str, threads: int) -> Forward:
    """ONNX Runtime on the CPU."""
    import numpy as np

    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(at, options, providers=["CPUExecutionProvider"])
    wave_name, *others = [given.name for given in session.get_inputs()]

    def forward(wave: NDArray[np.float32]) -> object:
        lengths = np.full(len(wave), wave.shape[1], dtype=np.int64)
        return session.run(None, {wave_name: wave, **dict.fromkeys(others, lengths)})

    return forward


RUNTIMES = {
    "torch": Runtime(unprepared, eager),
    "fast": Runtime(unprepared, packed),
    "compile": Runtime(unprepared, compiled),
    "onnx": Runtime(exported, onnx),
    "transformers": Runtime(stock, transformers),
}


def _line(problem: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(problem).splitlines()), "") or type(problem).__name__
