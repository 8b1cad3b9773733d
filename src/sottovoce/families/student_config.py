"""What a student's folder says of the student: keys of config.json and beginnings of tensor names, stated once for all who write or read
them. A flat copy of this file travels with every student.

D width of the student, D' width of its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from sottovoce.encoder.config import EncoderConfig, Shape
from sottovoce.encoder.score_head import ScoreShape

MODEL_TYPE = "sottovoce"
DECODER_TYPES = {
    "whisper": "sottovoce-whisper",
    "moonshine": "sottovoce-moonshine",
}  # model_type of a host with a decoder -> of its student
MODEL_TYPES = (MODEL_TYPE, *DECODER_TYPES.values())
STUDENT = "student"  # in a config.json that is a decoder's: what others have at the top
ENCODER, PROJECTIONS, SCORES = "encoder.", "projections.", "scores."  # what the names of the tensors begin with
HOST = ("bridge.", "rest.", "silence", "model.", "proj_out.")  # the same, of a student in a host: all that is not the student
# Of config.json, beside what transformers writes.
KEYS = ("sottovoce_version", "teacher", "hidden_size", "num_hidden_layers", "normalize", "teacher_dim", "teacher_frames", "projections",
        "encoder", "host", "scores")  # fmt: skip

# Keys of a host's config.json that its student's says, too, at the top, where pipelines look.
HEAD_KEYS = ("id2label", "label2id", "num_labels", "problem_type", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")


@dataclass(frozen=True)
class StudentConfig:
    """encoder: its shape. normalize: whether waveforms get zero mean and unit variance per row first. teacher: what it was made from.

    projections: name -> student layers that share this trained projection into the teacher's space, of `teacher_dim` (D') channels;
    empty when none was saved. teacher_frames: frames of the teacher for each of the student's, which come out of one projection.

    scores: the shapes of heads that score recordings, by label.

    host: of a student that lives in a host, its ``kind``, its ``bridges`` (`hosts.bridge`), and ``config``, the host's own config.json.
    Where they are needed: ``width`` of the states that a head reads, ``stride``, frames that one of its outputs takes, and ``tail``,
    seconds of silence that the student hears behind a recording.
    """

    encoder: EncoderConfig
    normalize: bool = False
    projections: Mapping[str, Sequence[int]] = field(default_factory=dict)
    teacher_dim: int | None = None
    teacher_frames: int = 1
    teacher: str | None = None
    host: Mapping[str, Any] | None = None
    scores: Mapping[str, ScoreShape] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StudentConfig:
        """The parsed config.json of a student. ValueError for anything that this version does not write."""
        values = values.get(STUDENT) or values
        try:
            encoder = EncoderConfig.from_dict(values["encoder"])
            _check(encoder, "encoder")
            projections = {str(name): [int(i) for i in layers] for name, layers in (values.get("projections") or {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as problem:
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
        scores = _scores(values.get("scores") or {}, encoder)
        return cls(encoder, normalize, projections, width, frames, values.get("teacher"), values.get("host"), scores)

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
            **({} if self.host is None else {"host": dict(self.host)}),
            **({"scores": {label: shape.to_dict() for label, shape in self.scores.items()}} if self.scores else {}),
        }

    def projection_shapes(self) -> dict[str, tuple[int, ...]]:
        """'<name>.weight' and '<name>.bias' of every projection -> its shape, (D' * teacher_frames, D) and (D' * teacher_frames,)."""
        width = (self.teacher_dim or 0) * self.teacher_frames
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.projections:
            shapes |= {f"{name}.weight": (width, self.encoder.dim), f"{name}.bias": (width,)}
        return shapes


def _scores(values: Any, encoder: EncoderConfig) -> dict[str, ScoreShape]:
    """The shapes of score heads in config.json. ValueError for anything that this version does not write."""
    if not isinstance(values, Mapping):
        raise ValueError(f"config.json: scores is {values!r}; expected the shapes of heads by label")
    scores = {str(label): ScoreShape.from_json(shape) for label, shape in values.items()}
    if any(shape.layer > len(encoder.layers) or "." in label for label, shape in scores.items()):
        raise ValueError(f"config.json: a score head reads a layer that is not there: {scores}")
    return scores


_MAY_BE_ZERO = (
    "num_heads",
    "ffn_dim",
    "ffn1_dim",
    "glu_dim",
    "left",
    "right",
    "width",
    "padding",
    "positions",
    "window",
    "query_dim",
    "value_dim",
    "sinusoids",
)
_LARGEST = 2**20  # of any whole number in a shape


def _check(shape: Shape, where: str) -> None:
    """ValueError for a value that no encoder of ours has: another type than the field's, a size that cannot be, a number out of range."""
    hints = get_type_hints(type(shape))
    for item in fields(shape):  # type: ignore[arg-type]
        value, name = getattr(shape, item.name), f"{where}.{item.name}"
        if isinstance(value, Shape):
            _check(value, name)
        elif isinstance(value, tuple) and value and all(isinstance(one, Shape) for one in value):
            for i, one in enumerate(value):
                _check(one, f"{name}.{i}")
        elif not _fits(value, hints[item.name], 0 if item.name in _MAY_BE_ZERO else 1):
            raise ValueError(f"{name} is {value!r}")
    if isinstance(shape, EncoderConfig):
        _check_heads(shape)


def _fits(value: Any, hint: Any, least: int) -> bool:
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return type(value) is int and least <= value <= _LARGEST
    if hint is float:
        return type(value) in (int, float) and 0 <= value <= 1
    if hint is str:
        return isinstance(value, str)
    if value is None:
        return type(None) in get_args(hint)
    if type(None) in get_args(hint) and get_args(hint)[0] in (bool, int, str):
        return _fits(value, get_args(hint)[0], least)
    return isinstance(value, tuple) and all(_fits_one(one) for one in value)  # empty, places of units, ranks by name


def _fits_one(value: Any) -> bool:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return type(value) is int and 0 <= value <= _LARGEST


def _check_heads(shape: EncoderConfig) -> None:
    for i, layer in enumerate(shape.layers):
        if shape.relative is None:
            break  # then nothing reads them
        if len(layer.heads) != layer.num_heads or any(head >= shape.relative.heads for head in layer.heads):
            raise ValueError(f"encoder.layers.{i}.heads is {layer.heads!r}")
    position = shape.position
    if position is not None and position.kept is not None and any(group >= position.groups for group in position.kept):
        raise ValueError(f"encoder.position.kept is {position.kept!r}")
