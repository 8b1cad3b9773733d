"""The base class of student designs, and what several of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sottovoce.encoder import ConvConfig, Encoder, FbankConfig, FrontendConfig, LayerConfig, LogMelConfig, ProjectionConfig
from sottovoce.hub.pretrained import Pretrained
from sottovoce.pruning.plan import rebuild


class Student:
    """Builds the initial student. A subclass is one file: ``@STUDENTS.register("name")``, a nested frozen ``Config``, and `build`."""

    name: ClassVar[str]
    Config: ClassVar[type]
    is_teacher: ClassVar[bool] = False  # starts in the teacher's shape; a budget can then be checked before the student is built

    def __init__(self, config: Any) -> None:
        self.config = config

    def build(self, teacher: Pretrained | None) -> Encoder:
        """The student before training. ValueError if the design does not fit this teacher."""
        raise TypeError(f"{type(self).__name__} must define build")


@dataclass(frozen=True)
class Joining:
    """Time for students made from a teacher.

    join: number of teacher frames that become one before the first layer; the layers then have as many times fewer frames (as in
    FitHuBERT, arXiv 2207.00555). The student starts from their mean. length: "any", every recording as long as it is, also where the
    teacher pads all to one length (Whisper: 30 s); "teacher", as the teacher does it.
    """

    join: int = 1
    length: Literal["any", "teacher"] = "any"

    def fitted(self, encoder: Encoder) -> Encoder:
        """`encoder`, or a new one that joins frames or runs on recordings as long as they are."""
        config, state = encoder.config, encoder.state_dict()
        if self.length == "any":
            config = dataclasses.replace(config, window=0)
        if self.join > 1:
            frontend, name = config.frontend, "frontend.projection.weight"
            if frontend.projection is None:
                frontend = dataclasses.replace(frontend, join=frontend.join * self.join)
                state[name] = state[name].repeat_interleave(self.join, 1) / self.join
            else:
                state[name], projection = longer(state[name], frontend.projection, self.join)
                frontend = dataclasses.replace(frontend, projection=projection)
            config = dataclasses.replace(config, frontend=frontend)
        return encoder if config == encoder.config else rebuild(encoder, config, state)


def sharing_maps(layers: Sequence[LayerConfig], count: int) -> tuple[LayerConfig, ...]:
    """The layers, of which each `count` in a row share the attention map of their first (ARMHuBERT, arXiv 2305.11685, with 2)."""
    if count < 1:
        raise ValueError(f"student.share_maps is {count}; it must be at least 1")
    return tuple(dataclasses.replace(layer, reuse=layer.reuse or i % count > 0) for i, layer in enumerate(layers))


def longer(weight: Tensor, shape: ProjectionConfig, join: int) -> tuple[Tensor, ProjectionConfig]:
    """The convolution (D, C, K) whose frames are the means of `join` frames of another, before the activation."""
    offsets = [shape.stride * i for i in range(join)]
    kernel = sum(nn.functional.pad(weight, (at, offsets[-1] - at)) for at in offsets) / join
    assert isinstance(kernel, Tensor)
    return kernel, dataclasses.replace(shape, kernel=kernel.shape[2], stride=shape.stride * join)


def own_encoder(teacher: Pretrained | None) -> Encoder:
    """The teacher's encoder, for students made from it. ValueError if there is no teacher, or if it runs inside transformers."""
    if teacher is None:
        raise ValueError("this student starts from a teacher's weights, and there is no teacher; name one, or use student=random")
    if not isinstance(teacher.encoder, Encoder):
        raise ValueError(
            f"a '{teacher.family}' model can teach, but its weights cannot be copied; choose another student (sottovoce list students)"
        )
    return teacher.encoder


def spectral_frontend(
    features: FbankConfig | LogMelConfig, subsampler: int = 0, kernel: int = 5, join: int = 1
) -> FrontendConfig:
    """A filter bank at 50 frames a second: pairs of its frames, or a convolution of stride 2 with `subsampler` channels over them."""
    if not subsampler:
        if isinstance(features, FbankConfig):
            return FrontendConfig((), fbank=features, join=join)
        return FrontendConfig((), log_mel=features, join=2 * join)
    if kernel % 2 == 0:
        raise ValueError(f"student.subsampler_kernel is {kernel}; it must be odd")
    front = FrontendConfig((ConvConfig(subsampler, kernel, 2, padding=kernel // 2),), norm="none", bias=True, join=join)
    if isinstance(features, FbankConfig):
        return dataclasses.replace(front, fbank=dataclasses.replace(features, stack=1))
    return dataclasses.replace(front, log_mel=features)
