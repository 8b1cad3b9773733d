"""An exported ONNX file as a subject, run by onnxruntime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.extras import optional
from sottovoce.core.types import Features
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.hub.folder import is_text

NEEDED = ("sottovoce", "layers", "dim", "frame_rate", "kernel", "family", "precision", "source")


class RuntimeEncoder(nn.Module):
    """(B, S) raw 16 kHz samples and (B,) valid samples, or ``None`` -> `Features`, computed by onnxruntime on the CPU, with
    torch's number of threads.

    A file with one layer returns it as `embedded`, as `last` and twice in `hidden`. A file with all layers returns them as transformers
    lists them: ``hidden[0]`` is the input of the first layer; the last one is normalised if the model does so.

    facts: the file's metadata. ValueError when sottovoce did not export the file, when it is damaged, or without onnxruntime.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        self._open()
        missing = [key for key in NEEDED if key not in self.facts]
        if missing:
            raise ValueError(f"{path}: not written by 'sottovoce export': its metadata does not say {', '.join(missing)}")

    def _open(self) -> None:
        onnxruntime = optional("onnxruntime", "onnx", f"running {self.path.name}")
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file; 'sottovoce export MODEL --to onnx' writes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            model = self.path if is_text(self.path) else self.path.read_bytes()  # onnxruntime opens no other names
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's exceptions have no other common base class
            raise ValueError(f"{self.path}: onnxruntime {onnxruntime.__version__} cannot load it: {problem}") from None
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "session"}  # sessions cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def layers(self) -> list[str]:
        """Names of the hidden states that the file returns."""
        return layers_of(self.facts)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        kernel = int(self.facts["kernel"])
        if wave.shape[1] < kernel:
            raise ValueError(f"{wave.shape[1]} samples are too few: one frame needs {kernel} (16 kHz)")
        longest = int(self.facts.get("longest", 0))
        if 0 < longest < wave.shape[1]:
            raise ValueError(
                f"{wave.shape[1]} samples are too many: the file takes {longest} at most (16 kHz); cut the recording"
            )
        size = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        names = [item.name for item in self.session.get_inputs()]
        inputs = (wave.float().cpu().numpy(), size.to(torch.int64).cpu().numpy())
        outputs = [torch.from_numpy(x).to(wave.device) for x in self.session.run(None, dict(zip(names, inputs, strict=True)))]
        return features_of(outputs[0], None if lengths is None else outputs[1])


def open_onnx(source: str | Path, name: str | None = None) -> Subject:
    """The subject of an exported file. Raises the ValueErrors of `RuntimeEncoder`."""
    encoder = RuntimeEncoder(source)
    return subject_of(
        encoder, encoder.facts, encoder.path, name or f"{encoder.facts['source']}-onnx-{encoder.facts['precision']}"
    )


def subject_of(encoder: nn.Module, facts: Mapping[str, str], path: Path, name: str) -> Subject:
    """The subject of an encoder that runs the exported file `path` with metadata `facts`."""
    origin = json.loads(facts.get("origin", "null"))
    return Subject(
        name=name,
        role="student" if origin is not None and origin.get("teacher") else "teacher",
        encoder=encoder.eval(),
        normalize=False,  # the file normalises waves itself
        layers=len(layers_of(facts)),
        dim=int(facts["dim"]),
        frame_rate=float(facts["frame_rate"]),
        fingerprint=hashlib.sha256(path.read_bytes()).hexdigest()[:32],
        family=facts["family"],
        params=_number(facts.get("params")),
        macs_per_s=_number(facts.get("macs_per_s")),
        origin=origin,
    )


def layers_of(facts: Mapping[str, str]) -> list[str]:
    """Names of the hidden states that a file returns."""
    layers: list[str] = json.loads(facts["layers"])
    return layers


def features_of(states: Tensor, lengths: Tensor | None) -> Features:
    """states: (B, T, D) of a file with one layer, or (B, layers, T, D)."""
    hidden = list(states.unbind(1)) if states.dim() == 4 else [states, states]
    return Features(hidden, lengths, hidden[0], hidden[-1])


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
