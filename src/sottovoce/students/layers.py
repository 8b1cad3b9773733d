"""A student made of some of the teacher's layers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder, FbankConfig, FrontendConfig
from sottovoce.hub.pretrained import Pretrained
from sottovoce.students.base import Joining, Student, own_encoder, spectral_frontend


@STUDENTS.register("layers")
class Layers(Student):
    """A copy of the teacher's front end and of its first layers (DistilHuBERT) or of evenly spaced layers (DistilXLSR)."""

    @dataclass(frozen=True)
    class Config(Joining):
        """count: number of layers (2 in DistilHuBERT). which: "first", or "spaced": every depth/count-th layer, including the last.
        numbers: the layers themselves, from 1 on, in place of both: the others are deleted.

        frontend: "teacher", or "fbank", a new front end of a filter bank with random weights (Wang et al. 2022, arXiv 2210.15631). mels,
        normalize, subsampler, subsampler_kernel: of it, as for `random`.
        """

        count: int = 2
        which: Literal["first", "spaced"] = "first"
        numbers: tuple[int, ...] = ()
        frontend: Literal["teacher", "fbank"] = "teacher"
        mels: int = 80
        normalize: bool = True
        subsampler: int = 512
        subsampler_kernel: int = 5

    def build(self, teacher: Pretrained | None) -> Encoder:
        encoder = own_encoder(teacher)
        config: Layers.Config = self.config
        depth = len(encoder.layers)
        if wrong := [number for number in config.numbers if not 1 <= number <= depth]:
            raise ValueError(f"student.numbers has {wrong[0]}, and the teacher has layers 1 to {depth}")
        numbers = [number - 1 for number in config.numbers] or chosen(depth, config.count, config.which)
        student = take(encoder, numbers)
        if config.frontend == "fbank":
            front = spectral_frontend(
                FbankConfig(config.mels, normalize=config.normalize), config.subsampler, config.subsampler_kernel
            )
            student = with_frontend(student, front)
        return config.fitted(student)


def chosen(depth: int, count: int, which: str) -> list[int]:
    """Chooses `count` of `depth` layers: their numbers from 0. ValueError if there are fewer than `count`."""
    if not 1 <= count <= depth:
        raise ValueError(f"cannot take {count} layers of a teacher that has {depth}; use 1 to {depth}")
    return list(range(count)) if which == "first" else [(i + 1) * depth // count - 1 for i in range(count)]


def take(encoder: Encoder, layers: list[int]) -> Encoder:
    """A new encoder with the front end of `encoder` and these of its layers, in this order."""
    shallower = Encoder(dataclasses.replace(encoder.config, layers=tuple(encoder.config.layers[i] for i in layers)))
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        state |= {f"layers.{new}.{name}": tensor for name, tensor in encoder.layers[old].state_dict().items()}
    shallower.load_state_dict(state)
    return shallower


def with_frontend(encoder: Encoder, frontend: FrontendConfig) -> Encoder:
    """A new encoder with the layers and positions of `encoder` behind another front end, which has random weights."""
    config = dataclasses.replace(encoder.config, frontend=frontend, window=0)
    student = Encoder(config).reset_parameters()
    kept = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith("frontend.")}
    student.load_state_dict({**student.state_dict(), **kept})
    return student
