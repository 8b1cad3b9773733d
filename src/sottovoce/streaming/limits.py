"""The limits of a stream: chunk, past and look-ahead. Checks of models and waveforms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder
from sottovoce.encoder.context import whole_frames
from sottovoce.hub.student import Speech

if TYPE_CHECKING:
    from numpy.typing import NDArray


CHUNK, LEFT = 0.32, 2.0  # seconds, of models that were trained for no context of their own


@dataclass(frozen=True)
class Limits:
    """In frames. chunk: frames that are computed together. left: frames before the chunk that attention sees. right: frames after the
    chunk that must arrive first."""

    chunk: int
    left: int
    right: int


def limits_of(model: Speech, chunk: float | None, left: float | None, right: float) -> Limits:
    """`Limits` from seconds; ``math.inf`` for no limit, ``None`` for what `model` was trained for, or the usual value. ValueError unless
    all are whole frames of `model`."""
    stride = encoder_of(model).config.frontend.stride
    if chunk == math.inf:
        raise ValueError("chunk is inf seconds; it must be a length of time")
    trained = context.longest if (context := encoder_of(model).config.context) is not None else None
    if chunk is None and trained is not None:
        size = trained.size
    else:
        size = whole_frames("chunk", CHUNK if chunk is None else chunk, stride, 1)
    if left is None and trained is not None:
        past = trained.left
    else:
        past = whole_frames("left", LEFT if left is None else left, stride)
    return Limits(size, past, whole_frames("right", right, stride))


def encoder_of(model: Speech) -> Encoder:
    """The encoder of `model`. ValueError if it cannot be streamed."""
    encoder = model.encoder
    if not isinstance(encoder, Encoder):
        raise ValueError(
            "this model runs inside transformers, which needs complete recordings; distil it into a student, which can be streamed"
        )
    if encoder.training:
        raise ValueError("the model is in training mode, where dropout makes features random; call model.eval() first")
    if (dtype := next(encoder.parameters()).dtype) != torch.float32:
        raise ValueError(
            f"streaming needs float32 and the model is {str(dtype).removeprefix('torch.')}; call model.float() first"
        )
    shape = encoder.config.frontend
    if encoder.config.window or encoder.config.positions:
        raise ValueError(
            "this model counts positions from the beginning of a recording that it hears whole, so it cannot be streamed"
        )
    if shape.log_mel is not None or shape.norm == "whole":
        raise ValueError("this model's front end is relative to the level of the whole recording, so it cannot be streamed")
    if shape.projection is not None or any(conv.padding for conv in shape.convs):
        raise ValueError(
            "this model's front end has padded convolutions or a convolution for a projection; it cannot be streamed"
        )
    if encoder.config.distance is not None and encoder.config.distance.kind == "rotary_heads":
        raise ValueError("streaming does not know attention whose queries and keys are rotated head by head (rotary_heads)")
    if shape.kernel < shape.stride:
        raise ValueError(f"the front end skips samples (kernel {shape.kernel}, stride {shape.stride}); it cannot be streamed")
    if shape.fbank is not None and model.normalize:
        raise ValueError("a filter bank on normalised waveforms cannot be streamed: its floor depends on the loudness")
    return encoder


def waveform(samples: Tensor | NDArray[Any], rate: int, device: torch.device) -> Tensor:
    """Checks a waveform and returns it: (S,) or (B, S) floats -> (B, S) float32. ValueError if it is not a waveform at 16 kHz."""
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"the audio is at {rate} Hz and the model needs {SAMPLE_RATE} Hz; resample it as one stream, without breaks between pieces"
        )
    x = samples if isinstance(samples, Tensor) else torch.tensor(np.ascontiguousarray(samples))
    if not x.is_floating_point():
        advice = "divide 16-bit samples by 32768" if x.dtype == torch.int16 else "convert it to floats between -1 and 1"
        raise ValueError(f"expected a waveform of floats, got {str(x.dtype).removeprefix('torch.')}; {advice}")
    if x.dim() not in (1, 2) or (x.dim() == 2 and not len(x)):
        raise ValueError(f"expected mono samples (samples,) or a batch (batch, samples), got shape {tuple(x.shape)}")
    x = torch.atleast_2d(x).to(device, torch.float32)
    if not bool(x.isfinite().all()):
        raise ValueError("the audio has NaN or infinite samples, which would spoil all later frames; repair them first")
    return x
