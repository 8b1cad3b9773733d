"""An exported ONNX file as a subject, run by onnxruntime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.extras import optional
from sottovoce.core.types import Batch, Features
from sottovoce.encoder.score_head import ScoreShape, in_windows
from sottovoce.evaluation.subjects.rater import score_names
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
        states, frames = self._run(wave, size, [item.name for item in self.session.get_outputs()][:2])
        return features_of(states, None if lengths is None else frames)

    def _run(self, wave: Tensor, lengths: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        names = [item.name for item in self.session.get_inputs()]
        inputs = (wave.float().cpu().numpy(), lengths.to(torch.int64).cpu().numpy())
        return [torch.from_numpy(x).to(wave.device) for x in self.session.run(outputs, dict(zip(names, inputs, strict=True)))]

    @property
    def scores(self) -> dict[str, ScoreShape]:
        """The heads in the file that score recordings, by label."""
        return {label: ScoreShape.from_json(values) for label, values in json.loads(self.facts.get("scores", "{}")).items()}

    def say(self, wave: Tensor, lengths: Tensor | None, labels: Sequence[str]) -> dict[str, Tensor]:
        """(B, S) raw samples that fit into the heads' window, (B,) valid ones -> by label, (B, N)."""
        size = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        found = self._run(wave, size, [score_output(label) for label in labels])
        return dict(zip(labels, found, strict=True))


def score_output(label: str) -> str:
    """The name of a score head's output."""
    return f"score_{label}"


@dataclass(frozen=True)
class FileRater:
    """An exported file with score heads. params: of its encoder."""

    file: RuntimeEncoder
    fingerprint: str
    params: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return score_names(self.file.scores)

    def rate(self, batch: Batch) -> Tensor:
        return torch.cat(list(in_windows(self.file.say, self.file.scores, batch.wave, batch.lengths).values()), dim=1)


def open_onnx(source: str | Path, name: str | None = None) -> Subject:
    """The subject of an exported file. Raises the ValueErrors of `RuntimeEncoder`."""
    encoder = RuntimeEncoder(source)
    named = name or f"{encoder.facts['source']}-onnx-{encoder.facts['precision']}"
    subject = subject_of(encoder, encoder.facts, encoder.path, named)
    if not encoder.scores:
        return subject
    return replace(subject, file=FileRater(encoder, subject.fingerprint, None if subject.params is None else int(subject.params)))


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
