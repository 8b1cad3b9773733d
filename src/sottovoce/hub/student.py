"""A student on disk, in Hugging Face format: `save_student` writes it, `load` reads it, and any teacher, for use."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.encoder import normalize as normalize_wave
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.families.student_config import ENCODER, MODEL_TYPES, PROJECTIONS, SCORES, STUDENT, StudentConfig
from sottovoce.hub.card import Card, render
from sottovoce.hub.checkpoint import refuse_not_finite
from sottovoce.hub.folder import WEIGHTS, finish, replacing, retire_exports
from sottovoce.hub.source_code import source_code
from sottovoce.hub.teacher_space import TeacherSpace, check_space, no_projections
from sottovoce.inference.packed import pack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sottovoce.hub.pretrained import Pretrained

__all__ = ["Card", "Speech", "load", "save_student"]


@dataclass(frozen=True)
class HostFiles:
    """What a folder holds when its student lives in a host.

    shape: `StudentConfig.host`. config: keys of config.json that differ from a bare student's. top: the host's own config.json, where it
    stays at the top and the student's goes under ``student``; empty where it is the other way round. tensors: by name. copied: files that
    come along as they are, by name. preprocessor: preprocessor_config.json. code: modules of sottovoce that are needed, with the names of
    their copies. usage: a section of the model card.
    """

    shape: Mapping[str, Any]
    config: Mapping[str, Any]
    top: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    copied: Mapping[str, bytes]
    preprocessor: Mapping[str, Any]
    code: Mapping[str, str]
    usage: str
    task: str


def save_student(
    folder: str | Path,
    encoder: Encoder,
    *,
    normalize: bool,
    preprocessor: Mapping[str, Any] | None = None,
    projections: Mapping[str, nn.Linear] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
    join: int = 1,
    teacher: str,
    card: Card | None = None,
    host: HostFiles | None = None,
    scores: ScoreHeads | None = None,
) -> list[str]:
    """Writes `folder` so that sottovoce and transformers load it, the latter also where sottovoce is not installed.

    normalize: whether the encoder wants waveforms of zero mean and unit variance. preprocessor: the teacher's
    preprocessor_config.json. projections: linear maps of student width -> teacher width, by name; layers: for each name, the
    student layers (0 is the front end) that were distilled through it. join: how many frames of the teacher a projection gives for
    each of the student's. teacher: its source as the user gave it; of a folder, only the last part is written down. host: what comes
    beside a student in a host (`hosts.save.save_host`). scores: heads that score recordings. Files in `folder` that are not the student's
    stay, but what `sottovoce export` wrote there of other weights goes, and its names are returned. A kill at any moment leaves the old
    student or the new.

    ValueError when the folder holds another kind of model, projections do not fit, or a number is not finite; OSError when writing
    fails.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from sottovoce import __version__

    folder = Path(folder).expanduser()
    _check_folder(folder)
    projections, layers = dict(projections or {}), dict(layers or {})
    shape = encoder.config
    teacher_dim = _check_projections(projections, layers, shape, join)
    teacher = Path(teacher).expanduser().resolve().name if Path(teacher).expanduser().is_dir() else teacher

    tensors = {f"{ENCODER}{name}": tensor for name, tensor in encoder.state_dict().items()}
    for name, linear in projections.items():
        tensors[f"{PROJECTIONS}{name}.weight"] = linear.weight
        bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        tensors[f"{PROJECTIONS}{name}.bias"] = bias
    scores = ScoreHeads(shape.dim, {}) if scores is None else scores
    tensors |= {f"{SCORES}{name}": tensor for name, tensor in scores.state_dict().items()}
    tensors |= {} if host is None else dict(host.tensors)
    refuse_not_finite(tensors, folder)
    # cloned, because weights that were cut may be views, and safetensors refuses those
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    host_shape = None if host is None else host.shape
    student = StudentConfig(shape, bool(normalize), layers, teacher_dim, join, teacher, host_shape, scores.shapes)
    config = {
        "architectures": ["SottovoceModel"],
        "auto_map": {"AutoConfig": "modeling_sottovoce.SottovoceConfig", "AutoModel": "modeling_sottovoce.SottovoceModel"},
        "sottovoce_version": __version__,
        "transformers_version": version("transformers"),
        "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
    }
    if host is not None and host.top:
        config = {**host.top, **config, STUDENT: student.to_json()}
    else:
        config |= student.to_json()
    config |= {} if host is None else dict(host.config)
    readme = render(
        card or Card(),
        teacher=teacher,
        dim=shape.dim,
        projected=bool(projections),
        scored=tuple(scores),
        parameters=sum(p.numel() for p in encoder.parameters()),
        version=__version__,
        usage="" if host is None else host.usage,
        task="feature-extraction" if host is None else host.task,
    )
    input_settings = bare_preprocessor(preprocessor or {}, normalize) if host is None else host.preprocessor
    texts = {
        "config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "preprocessor_config.json": json.dumps(input_settings, indent=2) + "\n",
        "README.md": readme,
        **source_code({} if host is None else host.code),
    }
    try:
        with replacing(folder) as new:
            save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
            outdated = retire_exports(folder, new)
            for name, text in texts.items():
                (new / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            for name, content in ({} if host is None else host.copied).items():
                (new / name).write_bytes(content)
    except (OSError, SafetensorError) as problem:
        full = getattr(problem, "errno", None) == errno.ENOSPC or "No space left" in str(problem)
        size = sum(tensor.nbytes for tensor in tensors.values()) / 2**20
        reason = f"the disk is full (the student needs {size:.0f} MiB beside what is there)" if full else str(problem)
        code = errno.ENOSPC if full else getattr(problem, "errno", None) or errno.EIO
        raise OSError(
            code, f"cannot write the student: {reason}; what was in the folder is unchanged", os.fspath(folder)
        ) from problem
    return outdated


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        return
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        kind = None
    if kind not in MODEL_TYPES:
        raise ValueError(f"{folder} holds a model that sottovoce did not write (model_type '{kind}'); name another folder")


def _check_projections(
    projections: Mapping[str, nn.Linear], layers: Mapping[str, Sequence[int]], shape: EncoderConfig, join: int
) -> int | None:
    """Their common output width, or ``None`` without projections."""
    if set(projections) != set(layers):
        raise ValueError(
            f"projections {sorted(projections)} and the layers they are for {sorted(layers)} do not go by the same names"
        )
    indexes = [index for each in layers.values() for index in each]
    if len(set(indexes)) < len(indexes) or any(not 0 <= index <= len(shape.layers) for index in indexes):
        raise ValueError(f"a layer has one projection at most, and there are layers 0 to {len(shape.layers)}; got {dict(layers)}")
    widths = {(linear.in_features, linear.out_features) for linear in projections.values()}
    if len(widths) > 1 or any(width != shape.dim or out % join for width, out in widths):
        raise ValueError(
            f"projections must all lead from the student's width, {shape.dim}, to the teacher's; got {sorted(widths)}"
        )
    return widths.pop()[1] // join if widths else None


def bare_preprocessor(teachers: Mapping[str, Any], normalize: bool) -> dict[str, Any]:
    """preprocessor_config.json of a student that reads waveforms."""
    kind = "Wav2Vec2FeatureExtractor"
    kept = dict(teachers) if teachers.get("feature_extractor_type") == kind else {}
    kept.pop("processor_class", None)  # names a tokenizer, which a student has not
    return {
        **kept,
        "feature_extractor_type": kind,
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": bool(normalize),
        "return_attention_mask": True,  # the encoder wants it for every family: padding must not change valid frames
    }


class Speech(nn.Module):
    """An encoder for use: raw 16 kHz audio -> `Features`.

    encoder, config (`EncoderConfig`, or ``None`` for a teacher that runs inside transformers), normalize, sample_rate in Hz,
    frame_rate in frames per second (``None`` when `config` is). With `projections`, `hidden` has gone through them into the
    teacher's space (see `TeacherSpace`), `last` is the last of those, and `embedded` stays as the encoder gave it. scores: heads that
    score recordings; ``None`` without one.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        encoder: nn.Module,
        config: EncoderConfig | None,
        *,
        normalize: bool,
        projections: TeacherSpace | None = None,
        scores: ScoreHeads | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.config, self.normalize = encoder, config, normalize
        self.projections, self.scores = projections, scores

    @property
    def join(self) -> int:
        """Frames that come out for each of the encoder's: more than one in the space of a teacher whose frames the student joins."""
        return 1 if self.projections is None else self.projections.join

    @property
    def frame_rate(self) -> float | None:
        return None if self.config is None else SAMPLE_RATE / self.config.frontend.stride * self.join

    def forward(self, wave: Tensor | NDArray[Any], lengths: Tensor | NDArray[Any] | Sequence[int] | None = None) -> Features:
        """wave: (S,) or (B, S) floats, not normalised; lengths: valid samples per row when rows are padded on the right.

        Every result has a batch axis. ValueError on integer samples and on shapes and lengths that do not fit.
        """
        x, samples = self._input(wave, lengths)
        features: Features = self.encoder(x, samples)
        if self.projections is None:
            return features
        hidden = self.projections(features.hidden)
        frames = None if features.lengths is None else features.lengths * self.join
        return Features(hidden, frames, features.embedded, hidden[-1])

    @torch.inference_mode()
    def rate(
        self, wave: Tensor | NDArray[Any], lengths: Tensor | NDArray[Any] | Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """What the heads of the student say of recordings, by label, (B, N): {"quality": (B, 1)} from 1 (bad) to 5 (excellent).

        Input as of a call. ValueError if the model has no such head.
        """
        if self.scores is None:
            raise ValueError("this model has no head that scores recordings; train one by the recipe 'quality'")
        return self.scores.rate(self.encoder, *self._input(wave, lengths))

    def _input(
        self, wave: Tensor | NDArray[Any], lengths: Tensor | NDArray[Any] | Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Waves and lengths as the encoder reads them."""
        parameter = next(self.encoder.parameters())
        x = wave if isinstance(wave, Tensor) else torch.tensor(np.ascontiguousarray(wave))
        if not x.is_floating_point():
            way = "divide 16-bit samples by 32768" if x.dtype == torch.int16 else "convert it to floats between -1 and 1"
            raise ValueError(f"expected a waveform of floats, got {str(x.dtype).removeprefix('torch.')}; {way}")
        if x.dim() not in (1, 2):
            raise ValueError(f"expected a waveform (samples,) or a batch (batch, samples), got shape {tuple(x.shape)}")
        x = torch.atleast_2d(x).to(parameter.device, torch.float32)
        samples = None if lengths is None else _lengths(lengths, x).to(parameter.device)
        if self.normalize:
            x = normalize_wave(x, samples)
        if self.config is None or self.config.frontend.features is None:  # they are computed in float32
            x = x.to(parameter.dtype)
        return x, samples


def teacher_space(model: Pretrained) -> TeacherSpace:
    """The way from a student's layers into its teacher's space. ValueError when it was saved without projections."""
    if not model.projections:
        raise no_projections(model.source)
    student = StudentConfig.from_json(model.hf_config)
    assert student.teacher_dim is not None
    space = TeacherSpace(student.projections, student.encoder.dim, student.teacher_dim, student.teacher_frames)
    space.load_state_dict(model.projections)
    return space


def _lengths(lengths: Tensor | NDArray[Any] | Sequence[int], wave: Tensor) -> Tensor:
    """`lengths` as (B,) int64, checked against `wave` (B, S)."""
    samples = torch.atleast_1d(torch.as_tensor(lengths)).to(torch.int64)
    if samples.shape != wave.shape[:1]:
        raise ValueError(f"{wave.shape[0]} rows need as many lengths, got shape {tuple(samples.shape)}")
    if samples.device.type == "cpu" and not bool(((samples > 0) & (samples <= wave.shape[1])).all()):  # elsewhere it would stall
        raise ValueError(f"lengths must lie between 1 and the {wave.shape[1]} samples of a row, got {samples.tolist()}")
    return samples


def load(
    source: str | Path,
    space: Literal["student", "teacher"] = "student",
    device: str | torch.device = "cpu",
    *,
    fast: bool = False,
) -> Speech:
    """A student or a teacher, in evaluation mode: a folder, a hub id, or ``demo``.

    >>> student = sottovoce.load("students/hubert")
    >>> features = student(wave, lengths)           # (B, S) raw 16 kHz floats -> features.hidden[i]: (B, T, D)

    space: "teacher" gives a student's layers in its teacher's space, for code that expects the teacher's width. ValueError when
    it was saved without projections, or when `source` does not load exactly.

    fast: prepared for inference on a CPU: the same features to 1e-4, in about half the time (docs/bench.md says what is measured),
    without gradients and with twice the memory for weights. ValueError where it cannot be done.
    """
    from sottovoce.hub.pretrained import load_pretrained

    check_space(space)
    finish(Path(source).expanduser())
    model = load_pretrained(source)
    projections = teacher_space(model) if space == "teacher" else None
    encoder: nn.Module = model.encoder
    if fast:
        if not isinstance(model.encoder, Encoder) or torch.device(device).type != "cpu":
            raise ValueError("fast=True is for the encoders of sottovoce on a CPU; load this model without it")
        encoder = pack(model.encoder)
    speech = Speech(encoder, model.config, normalize=model.normalize, projections=projections, scores=model.scores)
    return speech.eval().to(device)
