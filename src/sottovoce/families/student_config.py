"""What a student's folder says of the student: keys of config.json and beginnings of tensor names, stated once for all who write or read
them. A flat copy of this file travels with every student.

D width of the student, D' width of its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sottovoce.encoder.config import EncoderConfig

MODEL_TYPE = "sottovoce"
ENCODER, PROJECTIONS = "encoder.", "projections."  # what the names of the tensors begin with


@dataclass(frozen=True)
class StudentConfig:
    """encoder: its shape. normalize: whether waveforms get zero mean and unit variance per row first. teacher: what it was made from.

    projections: name -> student layers that share this trained projection into the teacher's space, of `teacher_dim` (D') channels;
    empty when none was saved. teacher_frames: frames of the teacher for each of the student's, which come out of one projection.
    """

    encoder: EncoderConfig
    normalize: bool = False
    projections: Mapping[str, Sequence[int]] = field(default_factory=dict)
    teacher_dim: int | None = None
    teacher_frames: int = 1
    teacher: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StudentConfig:
        """The parsed config.json of a student. ValueError for anything that this version does not write."""
        try:
            encoder = EncoderConfig.from_dict(values["encoder"])
            projections = {str(name): [int(i) for i in layers] for name, layers in (values.get("projections") or {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
            raise ValueError(
                f"config.json does not describe an encoder of this version of sottovoce ({problem}); did a newer one write it?"
            ) from None
        normalize = values.get("normalize", encoder.frontend.norm == "layer")  # the first students did not say
        if not isinstance(normalize, bool):
            raise ValueError(f"config.json: normalize is {normalize!r}; expected true or false")
        width, frames = values.get("teacher_dim"), values.get("teacher_frames", 1)
        if type(frames) is not int or frames < 1 or (projections and (type(width) is not int or width < 1)):
            raise ValueError(
                f"config.json: teacher_dim is {width!r} and teacher_frames {frames!r}; expected whole numbers from 1 on"
            )
        return cls(encoder, normalize, projections, width, frames, values.get("teacher"))

    def to_json(self) -> dict[str, Any]:
        """The part of config.json that `from_json` reads."""
        return {
            "model_type": MODEL_TYPE,
            "teacher": self.teacher,
            "hidden_size": self.encoder.dim,
            "num_hidden_layers": len(self.encoder.layers),
            "normalize": self.normalize,
            "teacher_dim": self.teacher_dim,
            **({"teacher_frames": self.teacher_frames} if self.teacher_frames > 1 else {}),
            "projections": {name: list(layers) for name, layers in self.projections.items()},
            "encoder": self.encoder.to_dict(),
        }

    def projection_shapes(self) -> dict[str, tuple[int, ...]]:
        """'<name>.weight' and '<name>.bias' of every projection -> its shape, (D' * teacher_frames, D) and (D' * teacher_frames,)."""
        width = (self.teacher_dim or 0) * self.teacher_frames
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.projections:
            shapes |= {f"{name}.weight": (width, self.encoder.dim), f"{name}.bias": (width,)}
        return shapes
